"""Health of a run's store: what it holds, how true it is to the members, and how it is mended.

For `kdscale logits info` and `kdscale logits fsck`. Works in this process, without Ray; mending goes through the
logits stage, which labels the slots that are empty and no others.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdscale.data.dataset import Dataset
from kdscale.ensemble.targets import fused
from kdscale.errors import UserError
from kdscale.logits import fsck
from kdscale.logits.records import Slot
from kdscale.logits.rows import Logits, Sparse
from kdscale.logits.sampled import Sampled
from kdscale.logits.store import Store
from kdscale.pipeline import fuse, logits, teachers, workers
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe
from kdscale.repeatable import settle
from kdscale.seeds import generator
from kdscale.tracking.progress import Bars
from kdscale.training import metrics, objectives

SAMPLE = 256
"""Rows of the fidelity report."""


def info(run: Run) -> dict[str, Any]:
    """Members, fused sets, shards, views, rows, bytes, missing slots and fidelity of the store."""
    store = logits.open_store(run)
    there, gaps = store.listing(), logits.missing(run)
    single = [name for name, maker in there.members.items() if maker.fused is None]
    rows, size = (sum(there.totals(name)[column] for name in single) for column in (1, 2))
    return {
        "store": store.name,
        "codec": store.info.codec,
        "temperatures": store.codec.temperatures,
        "members": sorted(single),
        "fused": {
            name: {"members": list(maker.fused.members), "rule": maker.fused.rule, "temperatures": maker.temperatures}
            | {"bytes_per_row": round(there.totals(name)[2] / there.totals(name)[1], 2)}
            for name, maker in there.members.items()
            if maker.fused is not None
        },
        "shards": len(there.shards()),
        "views": there.views,
        "rows": rows,
        "bytes": size,
        "bytes_per_row": round(size / rows, 2) if rows else None,
        "bytes_per_sample": None if gaps else round(size / run.manifest.samples(logits.SPLIT), 2),
        "missing": gaps,
        "fidelity": None if gaps else fidelity(run, store),
    }


def measured(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """On a worker: what results.json says of the store; None where it lacks a member."""
    seen = info(Run(folder, recipe))
    if seen["missing"] or not seen["rows"]:
        return None
    kept = {name: seen[name] for name in ("codec", "rows", "bytes", "bytes_per_row", "shards", "views", "fidelity")}
    return {**kept, "members": len(seen["members"])}


def fidelity(run: Run, store: Store) -> dict[str, float]:
    """How near the stored target of the ensemble is to the one that all logits would give, on some rows of a shard.

    At the student's temperature: `kl` (nats) from the full target to the stored one, classes outside the stored head
    taken as the tail spread evenly; `agreement` of the two most probable classes; `ece_gap` between the calibration
    errors of the two; `angle` (degrees) between the gradients that the two give an untrained student.
    """
    settle()
    temperature = run.recipe.student.temperature
    number, rows = _some_rows(run, store, SAMPLE)
    labels = _labels(run, number, rows)
    members, rule = list(logits.ensemble(run)), run.recipe.fusion.rule
    weights = [logits.weights(run.recipe).get(member, 1.0) for member in members]
    shard = run.manifest.splits[logits.SPLIT][number].name
    stored = [store.read(Slot(shard, 0, member)).at(temperature).take(rows) for member in members]
    full = fused([Logits(labels[member]) for member in members], rule, temperature, weights)["p"].double()
    kept = fused(stored, rule, temperature, weights)
    estimate = _filled_in(kept, full.shape[1])
    y = Dataset(run.dataset, logits.SPLIT, run.manifest).decoded(number).y[rows]
    eces = [
        metrics.calibration_error(metrics.reliability(p.numpy(), y, run.recipe.evaluate.bins)) for p in (full, estimate)
    ]
    z = torch.randn(full.shape, generator=torch.Generator().manual_seed(0))
    gradients = []
    for target in ({"p": full.float()}, kept):
        x = z.clone().requires_grad_()
        torch.autograd.backward(objectives.soft(x, target, temperature))
        assert x.grad is not None
        gradients.append(x.grad.flatten().double())
    cosine = torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0).clamp(-1, 1)
    kl = (torch.special.xlogy(full, full) - torch.special.xlogy(full, estimate.clamp_min(1e-12))).sum(1).mean()
    return {
        "rows": len(rows),
        "temperature": temperature,
        "kl": float(kl),
        "agreement": float((full.argmax(1) == estimate.argmax(1)).double().mean()),
        "ece_gap": eces[1] - eces[0],
        "angle": float(torch.rad2deg(torch.arccos(cosine))),
    }


def wanted(run: Run, store: Store) -> list[Slot]:
    """Slots that the recipe asks for, and those of fused sets of members as they are today.

    In a store outside the run directory, which other runs may use, all that are committed.
    """
    if run.recipe.logits.path:
        return [record.slot for record in store.listing()]
    trained = logits.trained(run)
    sets = [
        record.slot for record in store.listing() if record.fused and record.fused.members.items() <= trained.items()
    ]
    return [*logits.slots(run), *sets]


def mend(run: Run, faults: list[fsck.Fault], label: Callable[[], None], bars: Bars) -> None:
    """Set bad blocks aside, have the empty slots labelled, and fuse again what was fused."""
    store = logits.open_store(run)
    sets = {name: maker.fused for name, maker in store.listing().members.items() if maker.fused is not None}
    fsck.quarantine(store, [fault.slot for fault in faults])
    label()
    trained = logits.trained(run)
    for name in {fault.slot.member for fault in faults} & sets.keys():
        if sets[name].members.items() <= trained.items():
            fuse.work(run, sets[name], bars)


def check(run: Run, share: float = 0.001) -> list[fsck.Fault]:
    """Every fault of the store; a `share` of the rows, one of each member at least, is labelled again and compared."""
    store = logits.open_store(run)
    fused_sets = [record.slot for record in store.listing() if record.fused is not None]
    slots = [*logits.slots(run), *fused_sets]
    dataset = Dataset(run.dataset, logits.SPLIT, run.manifest)
    found = list(fsck.faults(store, dataset, slots))
    bad = {fault.slot for fault in found}
    count = max(1, round(share * run.manifest.samples(logits.SPLIT)))
    for number, rows in _spread_rows(run, count):
        shard = dataset.shards[number]
        for member, z in _labels(run, number, rows).items():
            slot = Slot(shard.name, 0, member)
            if slot in bad or store.record(slot) is None:
                continue
            if not _alike(store, slot, z, rows, [dataset.decoded(number).keys[row] for row in rows]):
                found.append(fsck.Fault(slot, f"{member}'s weights give other logits than the block holds"))
                bad.add(slot)
    return found


def _alike(store: Store, slot: Slot, z: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], keys: list[str]) -> bool:
    """Whether rows of a block are what the codec makes of these logits, up to the rounding of another machine."""
    import pyarrow as pa

    temperature = (store.codec.temperatures or [1.0])[0]
    mine = store.codec.decode(pa.table(store.codec.encode(z, store.draws(slot, keys))), z.shape[1], temperature)
    theirs = store.read(slot).at(temperature).take(rows)
    if isinstance(mine, Logits) and isinstance(theirs, Logits):
        spread = float(np.ptp(z, axis=1).max()) + 1e-6
        return bool(np.abs(mine.values.astype(np.float32) - theirs.values).max() <= 0.02 * spread)
    assert isinstance(mine, Sparse)
    assert isinstance(theirs, Sparse)
    a, b = (_filled_in(fused([r], "mean_probability", temperature), z.shape[1]) for r in (mine, theirs))
    if isinstance(store.codec, Sampled):  # each count is the expected one rounded, so one draw may fall on either side
        exact = torch.from_numpy(z).double().div(temperature).softmax(1)
        return bool(((b - exact).abs() * store.codec.draws <= 1 + 0.05 * store.codec.draws * exact + 0.05).all())
    return bool((a - b).abs().sum(1).mean() <= 0.1)


def _labels(run: Run, number: int, rows: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """(R, C) float32 logits of some rows of a training shard by each finished member, view 0."""
    device = torch.device("cpu")
    pixels = workers.shared_pixels(run, device)
    decoded = workers.dataset(run, logits.SPLIT).decoded(number)
    x = pixels(decoded.x[rows], decoded.ids[rows], np.zeros(len(rows), np.int64))
    found = {}
    for seed, checksum in teachers.members(run).items():
        predictor = workers.predictor(
            teachers.member_folder(run, seed), checksum, run.recipe.teachers.model, run.manifest, device
        )
        with torch.inference_mode():
            found[logits.member_name(seed)] = predictor(x).float().numpy()
    if not found:
        raise UserError(f"{run.folder}: no member is finished, so there is nothing to compare the store with")
    return found


def _some_rows(run: Run, store: Store, count: int) -> tuple[int, np.ndarray[Any, Any]]:
    """Rows of one seeded shard."""
    random = generator(run.recipe.seed, 4)
    shards = run.manifest.splits[logits.SPLIT]
    number = int(random.integers(len(shards)))
    size = shards[number].samples
    return number, np.sort(random.permutation(size)[:count])


def _spread_rows(run: Run, count: int) -> list[tuple[int, np.ndarray[Any, Any]]]:
    """`count` seeded rows over all shards."""
    shards = run.manifest.splits[logits.SPLIT]
    starts = np.cumsum([0, *(shard.samples for shard in shards)])
    places = np.sort(generator(run.recipe.seed, 5).permutation(starts[-1])[:count])
    number = np.searchsorted(starts, places, side="right") - 1
    return [(int(n), places[number == n] - starts[n]) for n in np.unique(number)]


def _filled_in(target: dict[str, torch.Tensor], classes: int) -> torch.Tensor:
    """(N, C) float64: a stored target with each group's tail spread evenly over the classes it does not name."""
    if "ids" not in target:
        return target["p"].double()
    ids, p, tail = target["ids"], target["p"].double(), target["tail"].double()
    rows, groups, width = ids.shape
    whole = torch.zeros(rows, groups, classes, dtype=torch.float64).scatter_add_(2, ids, p)
    if classes > width:
        named = torch.zeros(rows, groups, classes, dtype=torch.bool).scatter_(2, ids, True)
        whole += torch.where(named, 0.0, (tail / (classes - width))[..., None])
    return whole.mean(1)
