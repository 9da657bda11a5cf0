"""Bytes against accuracy: what students learn from each codec's record of an ensemble, and what that record takes.

Every record is written as Arrow IPC files of 5,000 rows. Ours are given as the store writes them, compressed where the
codec says so; of a peer's, compressed or not, the smaller size counts. Ours come from the members' own blocks, or from
one fused block where members can be fused; the peers record the mean distribution. Students see soft targets alone.

The divergence is KL(what the record says || the members' exact mean), in nats, averaged over training triples. Where a
codec of ours leaves a tail in one bucket, the bucket is spread evenly over the classes that it stands for, for this
number alone: the objective keeps it as one bucket. The other direction is infinite for every record that leaves a class
at zero.

The front is drawn at T = 1, which the peers are made for; the records at T = 2 are there because students do better on
them, at more bytes. For each peer the most accurate of ours that takes no more bytes is looked up, and the bound is one
standard error of the difference over pairs of students with the same seed. Picking the best of several flatters ours a
little. With --quick students are far from trained and three pairs decide, so its front is a check that all of it runs.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import peers
import pyarrow as pa
import torch
from figures import Figure, Options, table
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from students import Plan, Score, filled_in, in_workers, train_student, train_teacher
from torch import Tensor
from triples import CLASSES, folder_of, load

from kdscale.ensemble.targets import fused
from kdscale.logits.codecs import Codec
from kdscale.logits.dense import Dense
from kdscale.logits.rows import Logits
from kdscale.logits.sampled import Sampled, add, counts_of, pack
from kdscale.logits.store import GOLDEN
from kdscale.logits.topk import TopK
from kdscale.seeds import derive, generator

BLOCK = 5000
TEACHER = Plan(hidden=(512, 512), steps=1200, batch=256, rate=2e-3, dropout=0.5)
STUDENT = Plan(hidden=(128,), steps=1500, batch=128, rate=4e-3)
QUICK_TEACHER = Plan(hidden=(256,), steps=250, batch=256, rate=4e-3, dropout=0.3)
QUICK_STUDENT = Plan(hidden=(64,), steps=150, batch=128, rate=1e-2)


@dataclass(frozen=True)
class Record:
    """One way of recording the ensemble."""

    name: str
    side: str
    """ours, peer or reference."""
    bytes: float
    """A sample and ensemble, in the files as they are kept, without keys."""
    plain: float
    """The same, not compressed."""
    target: str
    """What its students are trained on; records of the same content share it."""
    temperature: float = 1.0


class Lab:
    """The ensemble's logits and the files that students are trained from."""

    def __init__(self, folder: Path, z: NDArray[np.float32], y: Tensor):
        self.folder, self.z, self.y = folder, z, y
        self.divergence: dict[str, float] = {}
        self.means = {t: self._mean(t) for t in (1.0, 2.0)}

    def keep(self, target: str, columns: dict[str, Tensor], temperature: float) -> None:
        """Write targets for the students, and note how far they are from the exact ones."""
        save_file(
            {name: column.contiguous() for name, column in columns.items()}, self.folder / f"{target}.safetensors"
        )
        exact, total = self.means[temperature].clamp_min(1e-30), 0.0
        for start in range(0, len(exact), 1000):
            part = slice(start, start + 1000)
            said = spread({name: column[part] for name, column in columns.items()}).double()
            total += float((torch.special.xlogy(said, said) - said * exact[part].double().log()).sum())
        self.divergence[target] = total / len(exact)

    def _mean(self, temperature: float) -> Tensor:
        return fused([Logits(member) for member in self.z], "mean_probability", temperature)["p"].float()


def frontier(options: Options) -> list[Figure]:
    """Students of every record: bytes, divergence, accuracy, calibration."""
    quick = options.quick
    torch.set_num_threads(1)  # so that other work on the machine does not hold up threads that wait for each other
    members, seeds = (3, 3) if quick else (4, 3)
    folder = folder_of(options.data)
    train, test, source = load(folder, 4000 if quick else 20_000, 2000 if quick else 10_000)
    with TemporaryDirectory() as name:
        place = Path(name)
        data = {"x": train.x, "y": train.y, "x_test": test.x, "y_test": test.y}
        save_file(data, place / "data.safetensors")
        in_workers(train_teacher, [(place, QUICK_TEACHER if quick else TEACHER, m) for m in range(members)])
        logits = [load_file(place / f"teacher-{m}.safetensors") for m in range(members)]
        _describe(logits, train.y, test.y, source)
        lab = Lab(place, np.stack([member["train"].numpy() for member in logits]), train.y)
        records = [*_references(lab), *_ours(lab, quick), *_peers(lab)]
        targets = {record.target: record.temperature for record in records}
        plan = QUICK_STUDENT if quick else STUDENT
        jobs = [(place, target, t, plan, seed) for target, t in targets.items() for seed in range(seeds)]
        scores = in_workers(train_student, jobs)
        by_target = {target: scores[n * seeds : (n + 1) * seeds] for n, target in enumerate(targets)}
        _print(records, by_target, lab.divergence)
        best = [member["test"].softmax(1) for member in logits]
        ensemble = float((torch.stack(best).mean(0).argmax(1) == test.y).float().mean())
    return _figures(records, by_target, ensemble, members)


def spread(columns: dict[str, Tensor]) -> Tensor:
    """(N, C) the distributions that targets stand for, tails spread evenly over the classes they stand for."""
    if "fill" in columns:
        return filled_in(columns)
    if "ids" not in columns:
        return columns["p"]
    ids, p, tail = columns["ids"], columns["p"], columns["tail"]
    named = torch.zeros(*ids.shape[:2], CLASSES).scatter_(2, ids, 1.0)
    share = tail[..., None] * (1 - named) / (1 - named).sum(2, keepdim=True).clamp_min(1)
    return share.scatter_add(2, ids, p).mean(1)


def file_bytes(columns: Mapping[str, pa.Array], compression: str | None) -> float:
    """Bytes a row of Arrow IPC files with these columns."""
    whole = pa.table(columns)
    total = 0
    for start in range(0, len(whole), BLOCK):
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(sink, whole.schema, options=options) as writer:
            writer.write_table(whole.slice(start, BLOCK).combine_chunks())
        total += sink.getvalue().size
    return total / len(whole)


def offsets(rows: int, member: int) -> NDArray[np.float64]:
    """(N,) a member's numbers for its draws, spread evenly between the others', as in a store."""
    return (generator(derive(0, "draws")).random(rows) + member * GOLDEN) % 1.0


def _references(lab: Lab) -> list[Record]:
    found = []
    ones = torch.ones(len(lab.y), 1, 1)
    lab.keep("labels", {"ids": lab.y[:, None, None], "p": ones, "tail": torch.zeros(len(lab.y), 1)}, 1.0)
    found.append(Record("labels alone", "reference", 0.0, 0.0, "labels"))
    for temperature, mean in lab.means.items():
        target = f"exact mean, T={temperature:g}"
        lab.keep(target, {"p": mean}, temperature)
        size = 4.0 * CLASSES * len(lab.z)
        found.append(Record(target, "reference", size, size, target, temperature))
    return found


def _ours(lab: Lab, quick: bool) -> list[Record]:
    kept: list[tuple[Codec, float]] = [(Dense("int8"), 1.0), (TopK(5, [1.0]), 1.0)]
    if not quick:
        kept += [(Dense("float16"), 1.0), *((TopK(k, [1.0]), 1.0) for k in (2, 10, 32)), (TopK(32, [2.0]), 2.0)]
    found = [_members(lab, codec, temperature) for codec, temperature in kept]
    fused_size = file_bytes(Dense("int8").encode(lab.z[0], np.zeros(0)), None)
    found.append(Record("dense int8, one fused block", "ours", fused_size, fused_size, _fused_int8(lab)))
    for draws in (1, 3, 24) if quick else (1, 3, 6, 12, 48, 200):
        found += _sampled(lab, draws, 1.0)
    for draws in () if quick else (12, 48):
        found += _sampled(lab, draws, 2.0)
    return found


def _members(lab: Lab, codec: Codec, temperature: float) -> Record:
    """The members' own blocks."""
    facts = codec.describe()
    name = f"{facts['name']} {facts.get('dtype') or 'k=' + str(facts['k'])}, {len(lab.z)} blocks"
    target = f"{name}, T={temperature:g}"
    encoded = [codec.encode(z, offsets(len(z), m)) for m, z in enumerate(lab.z)]
    rows = [codec.decode(pa.table(columns), CLASSES, temperature) for columns in encoded]
    lab.keep(target, fused(rows, "mean_probability", temperature), temperature)
    stored, plain = (sum(file_bytes(columns, how) for columns in encoded) for how in (codec.compression, None))
    return Record(name if temperature == 1 else target, "ours", stored, plain, target, temperature)


def _fused_int8(lab: Lab) -> str:
    codec = Dense("int8")
    mean = lab.means[1.0].clamp_min(torch.finfo(torch.float32).tiny).log().numpy()
    rows = codec.decode(pa.table(codec.encode(mean, np.zeros(0))), CLASSES, 1.0)
    lab.keep("fused-int8", fused([rows], "mean_probability", 1.0), 1.0)
    return "fused-int8"


def _sampled(lab: Lab, draws: int, temperature: float) -> list[Record]:
    members, rows = lab.z.shape[:2]
    codec = Sampled(draws, temperature)
    target = f"sampled-{draws}-T{temperature:g}"
    tokens = [codec.encode(z, offsets(rows, m))["tokens"] for m, z in enumerate(lab.z)]
    merged = merge(tokens)
    whole = Sampled(draws * members, temperature)
    decoded = whole.decode(pa.table({"tokens": merged}), CLASSES, temperature)
    lab.keep(target, fused([decoded], "mean_probability", temperature), temperature)
    name = f"sampled {members} x {draws} draws" + (f", T={temperature:g}" if temperature != 1 else "")
    found = []
    for what, blocks in (("one fused block", [merged]), (f"{members} blocks", tokens)):
        stored, plain = (sum(file_bytes({"tokens": b}, how) for b in blocks) for how in (codec.compression, None))
        found.append(Record(f"{name}, {what}", "ours", stored, plain, target, temperature))
    return found


def merge(tokens: Sequence[pa.Array]) -> pa.Array:
    """The members' counts added up, as one column."""
    triples = [counts_of(column, CLASSES) for column in tokens]
    row, ids, counts = (np.concatenate([triple[part] for triple in triples]) for part in range(3))
    return pack(*add(row, ids, counts, CLASSES), rows=len(tokens[0]), classes=CLASSES)


def _peers(lab: Lab) -> list[Record]:
    p = lab.means[1.0].numpy()
    ways = {
        "TinyViT, k=10": peers.tinyvit(p, 10),
        "TinyViT, k=100": peers.tinyvit(p, 100),
        "FKD marginal smoothing, k=5": peers.tinyvit(p, 5),
        "FKD marginal re-norm, k=5": peers.fkd_renormalised(p, 5),
        "RS-KD, 12 draws": peers.random_sampling(p, 12),
        "RS-KD, 50 draws": peers.random_sampling(p, 50),
        "RS-KD, 12 tokens of 3 bytes": peers.random_sampling_of_tokens(p),
    }
    found = []
    for number, (name, (columns, filled)) in enumerate(ways.items()):
        lab.keep(f"peer-{number}", {key: torch.from_numpy(value) for key, value in asdict(filled).items()}, 1.0)
        plain = file_bytes(columns, None)
        found.append(Record(name, "peer", min(plain, file_bytes(columns, "zstd")), plain, f"peer-{number}"))
    return found


def _describe(logits: list[dict[str, Tensor]], y: Tensor, y_test: Tensor, source: str) -> None:
    p, q = (torch.stack([member[part].softmax(1) for member in logits]) for part in ("train", "test"))
    single = [float((member.argmax(1) == y_test).float().mean()) for member in q]
    mean = p.mean(0)
    print(f"{source}; {len(y):,} training and {len(y_test):,} test triples")
    print(
        f"teachers on test triples: {', '.join(f'{a:.3f}' for a in single)}; ensemble of {len(logits)}: "
        f"{float((q.mean(0).argmax(1) == y_test).float().mean()):.3f}"
    )
    print(
        f"mean target of training triples: accuracy {float((mean.argmax(1) == y).float().mean()):.3f}, largest "
        f"probability {float(mean.max(1).values.mean()):.3f}, entropy {float(torch.special.entr(mean).sum(1).mean()):.3f} nats"
    )


def _print(records: list[Record], scores: dict[str, list[Score]], divergence: dict[str, float]) -> None:
    rows = []
    for record in sorted(records, key=lambda r: (r.side, r.bytes)):
        found = scores[record.target]
        accuracy = [score.accuracy for score in found]
        rows.append(
            [
                record.side,
                record.name,
                f"{record.bytes:.1f}",
                f"{record.plain:.1f}",
                f"{divergence[record.target]:.4f}",
                f"{100 * statistics.mean(accuracy):.2f} +- {100 * statistics.stdev(accuracy):.2f}",
                f"{100 * statistics.mean(score.ece for score in found):.2f}",
                f"{statistics.mean(score.nll for score in found):.3f}",
            ]
        )
    print(table(["side", "record", "bytes", "plain", "KL", "accuracy %", "ECE %", "NLL"], rows), flush=True)


def _figures(records: list[Record], scores: dict[str, list[Score]], ensemble: float, members: int) -> list[Figure]:
    def accuracy(record: Record) -> list[float]:
        return [score.accuracy for score in scores[record.target]]

    figures = [Figure("ensemble, accuracy on test triples", ensemble, "share")]
    for record in records:
        where = f"{record.side}: {record.name}"
        figures += [
            Figure(f"{where}: bytes", record.bytes, "bytes/sample"),
            Figure(f"{where}: student's accuracy", statistics.mean(accuracy(record)), "share"),
        ]
    ours = [record for record in records if record.side == "ours" and record.temperature == 1]
    for peer in (record for record in records if record.side == "peer"):
        smaller = [record for record in ours if record.bytes <= peer.bytes]
        if not smaller:
            figures.append(Figure(f"front: ours of no more bytes than {peer.name}", 0, "records", ">= 1"))
            continue
        best = max(smaller, key=lambda record: statistics.mean(accuracy(record)))
        gaps = [a - b for a, b in zip(accuracy(best), accuracy(peer), strict=True)]
        error = statistics.stdev(gaps) / len(gaps) ** 0.5
        name = (
            f"front: accuracy of ours ({best.name}, {best.bytes:.1f} bytes) less that of {peer.name} ({peer.bytes:.1f})"
        )
        figures.append(Figure(name, statistics.mean(gaps), "share", f">= {-error:.5f}"))
    asked = next(record for record in ours if record.name == f"sampled {members} x 3 draws, one fused block")
    name = f"bytes a sample of the ensemble at C=1,000, {asked.name}"
    figures.append(Figure(name, asked.bytes, "bytes", "<= 24"))
    figures.append(Figure(f"{name}, not compressed", asked.plain, "bytes", "<= 24"))
    return figures
