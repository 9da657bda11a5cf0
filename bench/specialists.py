"""Specialists measured: `python bench/specialists.py --json [--quick]` from the repository root."""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import yaml
from figures import Figure, Options, Section, main, ratio, side_by_side
from torch import Tensor

from kdscale.models import zoo
from kdscale.recipe import ModelSpec
from kdscale.specialists.clusters import confusion_sets
from kdscale.specialists.covariance import Covariance
from kdscale.specialists.inference import joint, objective
from kdscale.specialists.sets import ClassSets

BATCH = 256
Problem = tuple[Tensor, Tensor, Tensor, ClassSets]


def joint_inference(options: Options) -> list[Figure]:
    """1,000 classes, 20 specialists of 50: Newton against batched Adam on q = softmax(z), as the paper has it.

    Each of Adam's rates runs until every image's q is within 1e-6 of the optimum, as Newton's is proved to be in the tests; the
    fastest rate counts. That the objective is within 1e-6 comes far earlier, with q still 1e-3 away, and is shown as well. Adam
    starts at z = log p_g, knows when to stop, and is not charged for looking.
    """
    figures = []
    for sets, n, bound in (("disjoint", 1, 500), ("overlapping", 1, 40), ("disjoint", 3, 500), ("overlapping", 3, 40)):
        kind = f"{sets}, n = {n}"
        given = _problem(1000, 20, 50, sets == "overlapping")
        active = given[3].active(given[0], n)
        found = joint(*given, active=active)
        best = objective(*given, active, found.q)

        def objective_is_near(q: Tensor, given: Problem = given, active: Tensor = active, best: Tensor = best) -> bool:
            return bool((objective(*given, active, q) - best).max() < NEAR)

        def all_of_q_is_near(q: Tensor, found: Tensor = found.q) -> bool:
            return bool((q - found).abs().max() < NEAR)

        most = 1000 if options.quick else 5000
        rate, steps = _fastest(kind, given, active, all_of_q_is_near, most)
        _, lenient = _fastest(f"{kind}, objective", given, active, objective_is_near, most)
        ours = partial(joint, *given, active=active)
        measured = min(steps, 20 if options.quick else 100)
        newton, adam = side_by_side([ours, partial(_adam, given, active, rate, measured)], 3 if options.quick else 5)
        print(f"{kind}: seconds of Newton {newton}, of {measured} steps of Adam {adam}", flush=True)
        ratios = sorted(b / measured / a for a, b in zip(newton, adam, strict=True))
        faster = ratios[len(ratios) // 2]  # a step of Adam over all of Newton
        figures += [
            Figure(f"{kind}: active specialists an image", active.sum(1).double().mean().item(), ""),
            Figure(f"{kind}: Newton steps", found.steps, ""),
            Figure(f"{kind}: KKT residual", found.residual.max().item(), "", "<= 1e-9"),
            Figure(f"{kind}: Newton", 1e6 * sorted(newton)[len(newton) // 2] / BATCH, "us an image"),
            Figure(f"{kind}: Adam steps to q within 1e-6 (rate {rate})", steps, "" if steps < most else "(gave up)"),
            Figure(f"{kind}: faster than Adam", faster * steps, "x", f">= {bound}"),
            Figure(f"{kind}: faster than Adam to the objective alone", faster * lenient, "x"),
        ]
    return figures


def many_classes(options: Options) -> list[Figure]:
    """15,000 classes, 61 specialists of 300 that overlap, n = 1 as in the paper; float32, in a process of its own."""
    return _apart("many_classes", options)


def clustering(options: Options) -> list[Figure]:
    """15,000 classes from a million rows of the top 32: covariance in float32, then 61 clusters."""
    return _apart("clustering", options)


NEAR = 1e-6


def two_workers(options: Options) -> list[Figure]:
    """20 specialists of a generalist of 100 classes (pairs of digits), each of some seconds, on one worker and on two, in turn."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    rates: dict[int, list[float]] = {1: [], 2: []}
    before = 0.0
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        folder = Path(name).resolve()
        recipe = {**PAIRS, "specialists": {**PAIRS["specialists"], "epochs": 20 if options.quick else 150}}
        (folder / "pairs.yaml").write_text(yaml.safe_dump(recipe))
        _kdscale(folder, "student")
        for _ in range(1 if options.quick else 2):
            for workers, column in seconds.items():
                shutil.rmtree(folder / "run" / "specialists", ignore_errors=True)
                _kdscale(folder, "specialists", f"cluster.cpus={workers}")
                spent = json.loads((folder / "run" / "stages.json").read_text())["specialists"]["seconds"]
                column.append(spent - before)  # the stage's are of all commands that worked on it
                before = spent
                ends = folder.glob("run/specialists/*/*/status.json")
                rates[workers] += [json.loads(path.read_text())["rate"] for path in ends]
    print(f"seconds on one worker {seconds[1]}, on two {seconds[2]}", flush=True)
    return [
        Figure("20 specialists on one worker", statistics.median(seconds[1]), "s"),
        Figure("20 specialists on two workers", statistics.median(seconds[2]), "s"),
        Figure("steps a second beside another, of those alone", fmean(rates[2]) / fmean(rates[1]), ""),
        Figure("two workers over one", ratio(seconds[1], seconds[2]), "x", ">= 1.8"),
    ]


PAIRS: dict[str, Any] = {
    "name": "pairs",
    "data": {"source": "digit_strings", "options": {"length": 2, "train": 20_000}, "shard_size": 5000},
    "teachers": {"count": 1, "model": {"name": "mlp", "hidden": [32]}, "epochs": 1},
    "student": {"model": {"name": "mlp", "hidden": [64]}, "epochs": 1, "workers": 1},
    "specialists": {"count": 20, "classes": 15, "generalist": "control", "batch_size": 128},
}


def _kdscale(folder: Path, verb: str, *overrides: str) -> None:
    command = [sys.executable, "-c", "from launcher.cli import main; main()", verb, "pairs.yaml", "--out", "run"]
    subprocess.run([*command, *overrides], cwd=folder, check=True, capture_output=True)


def _fastest(kind: str, given: Problem, active: Tensor, near: Callable[[Tensor], bool], most: int) -> tuple[float, int]:
    """Adam's best rate and the steps that it takes, `most` where it gives up."""
    rate, steps = 0.0, most
    for tried in (0.03, 0.1, 0.3):
        taken = _adam(given, active, tried, steps, near)
        print(f"{kind}: Adam at rate {tried}: {taken} steps", flush=True)
        rate, steps = (tried, taken) if taken < steps else (rate, steps)
    return rate, steps


def _adam(given: Problem, active: Tensor, rate: float, steps: int, near: Callable[[Tensor], bool] | None = None) -> int:
    """Batched Adam on z, until q is near enough. Steps taken."""
    generalist, own, dustbin, sets = given
    z = generalist.log().clone().requires_grad_()
    image, number = active.nonzero(as_tuple=True)  # only the active pairs are computed
    classes, p, d = sets.classes[number], own[image, number], dustbin[image, number]
    optimizer = torch.optim.Adam([z], lr=rate)
    for step in range(1, steps + 1):
        log_q = z.log_softmax(1)
        named = log_q[image[:, None], classes]
        outside = torch.log1p(-named.exp().sum(1).clamp_max(1 - 1e-12))
        loss = -(generalist * log_q).sum() - (p * named).sum() - (d * outside).sum()
        optimizer.zero_grad()
        loss.backward()
        if near is not None and step % 25 == 0 and near(log_q.detach().exp()):
            return step
        optimizer.step()
    return steps


def _problem(classes: int, count: int, size: int, overlap: bool, dtype: torch.dtype = torch.float64) -> Problem:
    random = torch.Generator().manual_seed(0)
    order = torch.randperm(classes, generator=random)
    sets = [
        (torch.randperm(classes, generator=random)[:size] if overlap else order[i * size : (i + 1) * size]).tolist()
        for i in range(count)
    ]
    laid = ClassSets.of(sets, classes)
    p = (3 * torch.randn(BATCH, classes, generator=random)).to(dtype).softmax(1)
    full = (3 * torch.randn(BATCH, count, size + 1, generator=random)).to(dtype).softmax(2)
    return p, full[:, :, :-1].contiguous(), full[:, :, -1].contiguous(), laid


def _measure_many_classes(quick: bool) -> list[Figure]:
    given = _problem(15_000, 61, 300, True, torch.float32)
    before = _peak()
    figures: list[Figure] = []
    forward = _forward(quick)
    for n in (1, 5):
        found = joint(*given, n=n)
        (times,) = side_by_side([partial(joint, *given, n=n)], 3 if quick else 7)
        middle = sorted(times)[len(times) // 2]
        networks = (1 + found.active.sum(1).double().mean().item()) * forward
        figures += [
            Figure(
                f"15,000 classes, n = {n}: active specialists an image", found.active.sum(1).double().mean().item(), ""
            ),
            Figure(f"15,000 classes, n = {n}", BATCH / middle, "images/s"),
            Figure(f"15,000 classes, n = {n}: KKT residual", found.residual.max().item(), "", "<= 1e-9"),
            Figure(f"15,000 classes, n = {n}: of the networks' own time", middle / BATCH / networks, "", "<= 0.05"),
        ]
    return [*figures, Figure("15,000 classes: memory beyond the inputs", (_peak() - before) / 2**20, "MiB")]


def _forward(quick: bool) -> float:
    """Seconds an image of a generalist's forward pass: configs/jft.yaml's WRN-16-4 on 64 x 64 pixels, 64 at once."""
    spec = ModelSpec.model_validate({"name": "wide_resnet", "depth": 16, "width": 4})
    network = zoo.build(spec, (3, 64, 64), 15_000, 0).eval()
    x = torch.randn(64, 3, 64, 64)
    with torch.inference_mode():
        (times,) = side_by_side([partial(network, x)], 2 if quick else 5)
    return sorted(times)[len(times) // 2] / len(x)


def _measure_clustering(quick: bool) -> list[Figure]:
    classes, k, rows = 15_000, 32, 100_000 if quick else 1_000_000
    rng = np.random.default_rng(0)
    group = rng.permutation(np.arange(classes) % 61)
    members = [np.flatnonzero(group == number) for number in range(61)]
    gathered = Covariance(classes)
    spent = 0.0
    for _ in range(rows // 50_000):  # rows as a shard's file gives them, made outside the clock
        of = rng.integers(61, size=50_000)
        ids = rng.integers(classes, size=(50_000, k))
        for number, one in enumerate(members):
            mine = np.flatnonzero(of == number)
            ids[mine, : k - 8] = rng.choice(one, (len(mine), k - 8))
        p = rng.dirichlet(np.full(k, 0.3), 50_000).astype(np.float32)
        start = time.perf_counter()
        gathered.add_sparse(ids, p)
        spent += time.perf_counter() - start
    start = time.perf_counter()
    columns = gathered.columns()
    sets = confusion_sets(columns, 61, 245)
    clustered = time.perf_counter() - start
    found = np.mean([np.bincount(group[one]).max() / len(one) for one in sets])
    return [
        Figure(f"covariance of {rows:,} rows of {k}", spent, "s"),
        Figure("61 clusters of 15,000 columns", clustered, "s"),
        Figure("covariance and clusters", spent + clustered, "s", "<= 600"),
        Figure("covariance and clusters: peak memory", _peak() / 2**30, "GiB", "<= 8"),
        Figure("classes of a set that are of one planted group", float(found), "share"),
    ]


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _apart(name: str, options: Options) -> list[Figure]:
    """In a process of its own, whose peak memory is this section's alone."""
    with tempfile.NamedTemporaryFile() as answer:
        code = f"import specialists as s; s._answer({name!r}, {options.quick}, {answer.name!r})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
        rows = [line.split("\t") for line in Path(answer.name).read_text().splitlines()]
    return [Figure(row[0], float(row[1]), row[2], row[3] or None) for row in rows]


def _answer(name: str, quick: bool, path: str) -> None:
    figures = {"many_classes": _measure_many_classes, "clustering": _measure_clustering}[name](quick)
    lines = [f"{figure.name}\t{figure.value!r}\t{figure.unit}\t{figure.bound or ''}" for figure in figures]
    Path(path).write_text("\n".join(lines))


SECTIONS: list[Section] = [joint_inference, many_classes, clustering, two_workers]

if __name__ == "__main__":
    main(__doc__ or "", SECTIONS)
