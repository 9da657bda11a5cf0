/* Loss and gradient of soft targets, row by row, each row staying in the cache: see gradient.py for the mathematics.

   Plain C without any library, so that a compiler alone builds it in a second. exp and log are polynomials that vectorise on
   every target; both are exact to about 2e-7 relative, and a NaN or an infinity among the logits makes the loss NaN. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LEAST 1.1920929e-7f
#define TINY 1.17549435e-38f

#define LOG2E 1.44269504f

static inline float exp2_(float x) { /* of x <= 0; 0 where that is below the normal numbers */
    const int gone = x < -126.0f;
    x = gone ? -126.0f : x;
    const float n = rintf(x), f = x - n;
    float y = 1.3264726899e-3f; /* the least relative error of degree 5 on [-1/2, 1/2] with 1 at 0: 9.1e-8 */
    y = y * f + 9.6715126606e-3f;
    y = y * f + 5.5507337442e-2f;
    y = y * f + 2.4022242085e-1f;
    y = y * f + 6.9314697760e-1f;
    y = y * f + 1.0f;
    int32_t bits;
    memcpy(&bits, &y, 4);
    bits += (int32_t)n * (1 << 23); /* straight into the exponent */
    memcpy(&y, &bits, 4);
    return gone ? 0.0f : y;
}

static inline float log_(float x) { /* of normal x > 0 */
    int32_t bits;
    memcpy(&bits, &x, 4);
    int32_t shifted = bits - 0x3f3504f3; /* the mantissa comes to lie in [sqrt(1/2), sqrt(2)) */
    float e = (float)(shifted >> 23);
    bits = (shifted & 0x007fffff) + 0x3f3504f3;
    float m;
    memcpy(&m, &bits, 4);
    m -= 1.0f;
    float y = 7.0376836292e-2f;
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * m * m * m - 0.5f * m * m + m;
    return y + e * 0.693147181f;
}

#define LANES 32
static inline float largest(const float *z, int64_t n) { /* lane by lane, since a maximum that heeds NaN is not vectorised */
    float lane[LANES], most = -INFINITY;
    int64_t c = 0;
    for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
    for (; c + LANES <= n; c += LANES)
        for (int j = 0; j < LANES; j++) lane[j] = z[c + j] > lane[j] ? z[c + j] : lane[j];
    for (int j = 0; j < LANES; j++) most = lane[j] > most ? lane[j] : most;
    for (; c < n; c++) most = z[c] > most ? z[c] : most;
    return most;
}

typedef struct {
    const float *z; int64_t stride; float *g; int64_t classes;   /* logits, their row stride; gradient, contiguous */
    const int64_t *ids; const float *p, *tail, *weight;          /* ids NULL: p is (rows, classes) */
    int64_t groups, named;
    const int64_t *y, *other; const float *share;                /* y NULL: no hard term; other NULL: one label a row */
    float inverse, factor, hard, smoothing;                      /* 1 / T; T soft_weight / rows; hard_weight / rows */
} Work;

static int outside(const int64_t *ids, int64_t n, int64_t classes) {
    int bad = 0;
    for (int64_t j = 0; j < n; j++) bad |= (uint64_t)ids[j] >= (uint64_t)classes;
    return bad;
}

/* Whether the row names a class that there is not: nothing is written then. Its two terms are added to `sums`. */
static int row(const Work *w, int64_t i, double *sums) {
    const int64_t C = w->classes, many = w->groups * w->named;
    if ((w->ids && outside(w->ids + i * many, many, C)) || (w->y && outside(w->y + i, 1, C)) ||
        (w->other && outside(w->other + i, 1, C)))
        return 1;
    const float *z = w->z + i * w->stride;
    float *g = w->g + i * C;
    const float t = w->inverse, t2 = t * LOG2E;
    float most = largest(z, C);
    float sum = 0.0f;
    for (int64_t c = 0; c < C; c++) { float e = exp2_((z[c] - most) * t2); g[c] = e; sum += e; }
    const float lse = most * t + logf(sum);
    const float norm = 1.0f / sum;

    double soft = 0.0;
    float bump[w->groups * w->named + 1]; /* corrections at the named classes; they need the softmax before it is scaled */
    float whole = 0.0f; /* what q is multiplied with */
    if (!w->ids) {
        const float *p = w->p + i * C;
        float mass = 0.0f, value = 0.0f;
        for (int64_t c = 0; c < C; c++) {
            float known = p[c] < TINY ? TINY : p[c];
            value += p[c] * (log_(known) - (z[c] * t - lse));
            mass += p[c];
        }
        soft = value;
        whole = mass;
    } else {
        for (int64_t k = 0; k < w->groups; k++) {
            const int64_t at = (i * w->groups + k) * w->named;
            const float share = w->weight ? w->weight[i * w->groups + k] : 1.0f / (float)w->groups;
            const float tail = w->tail[i * w->groups + k];
            float seen = 0.0f, mass = 0.0f, value = 0.0f, bucket = 0.0f;
            for (int64_t j = 0; j < w->named; j++) {
                const int64_t c = w->ids[at + j];
                const float p = w->p[at + j], known = p < TINY ? TINY : p;
                seen += g[c];
                mass += p;
                value += p * (log_(known) - (z[c] * t - lse));
            }
            if (tail > 0.0f) {
                float rest = 1.0f - seen * norm;
                rest = rest < LEAST ? LEAST : rest;
                value += tail * (log_(tail < TINY ? TINY : tail) - log_(rest));
                bucket = tail / rest;
                mass += tail - bucket;
            }
            for (int64_t j = 0; j < w->named; j++)
                bump[k * w->named + j] = share * w->factor * (g[w->ids[at + j]] * norm * bucket - w->p[at + j]);
            soft += share * value;
            whole += share * mass;
        }
    }

    const int hard = w->y != 0;
    const float scale = whole * w->factor * norm;
    float own = 0.0f;
    if (hard) {
        float sum1 = 0.0f, total = 0.0f;
        if (t == 1.0f) sum1 = sum;
        else for (int64_t c = 0; c < C; c++) sum1 += exp2_((z[c] - most) * LOG2E);
        const float lse1 = most + logf(sum1), first = w->other ? w->share[i] : 1.0f;
        double value = lse1 - z[w->y[i]];
        if (w->other) value = first * value + (1.0f - first) * (lse1 - z[w->other[i]]);
        if (w->smoothing > 0.0f) {
            for (int64_t c = 0; c < C; c++) total += z[c];
            value = (1.0f - w->smoothing) * value + w->smoothing * (lse1 - total / (float)C);
        }
        sums[1] += value;
        own = w->hard / sum1;
    }
    sums[0] += soft;

    const float even = hard ? w->hard * w->smoothing / (float)C : 0.0f;
    if (!hard) for (int64_t c = 0; c < C; c++) g[c] *= scale;
    else if (t == 1.0f) for (int64_t c = 0; c < C; c++) g[c] = g[c] * (scale + own) - even;
    else for (int64_t c = 0; c < C; c++) g[c] = g[c] * scale + exp2_((z[c] - most) * LOG2E) * own - even;
    if (w->ids) {
        const int64_t *ids = w->ids + i * w->groups * w->named;
        for (int64_t j = 0; j < w->groups * w->named; j++) g[ids[j]] += bump[j];
    } else {
        const float *p = w->p + i * C, factor = w->factor;
        for (int64_t c = 0; c < C; c++) g[c] -= p[c] * factor;
    }
    if (hard) {
        const float full = w->hard * (1.0f - w->smoothing), first = w->other ? w->share[i] : 1.0f;
        g[w->y[i]] -= full * first;
        if (w->other) g[w->other[i]] -= full * (1.0f - first);
    }
    return 0;
}

/* The number of rows from start to stop that name a class that there is not; `sums`, soft and hard, of all others. */
int64_t soft_targets(const Work *w, int64_t start, int64_t stop, double *sums) {
    int64_t bad = 0;
    sums[0] = sums[1] = 0.0;
    for (int64_t i = start; i < stop; i++) bad += row(w, i, sums);
    return bad;
}
