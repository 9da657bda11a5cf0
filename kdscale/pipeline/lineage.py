"""What of a run was made from what: shards -> members -> store -> student -> specialists, for W&B."""

from pathlib import Path
from typing import Any

from kdscale.data.manifest import FILE
from kdscale.files import digest, read_json
from kdscale.logits.store import FILE as STORE
from kdscale.pipeline import data, evaluate, logits, specialists, student, teachers, unified
from kdscale.pipeline.run import Run
from kdscale.tracking import evaluation
from kdscale.tracking.identity import FOLDER, run_id
from kdscale.tracking.publishing import Artefact, Node, publish_aside, write
from kdscale.tracking.wandb import first_line, warn
from kdscale.training.done import WEIGHTS

DATA = "data"


def begin(run: Run) -> None:
    """Where W&B is on, draw the run's id before anything is sent to other nodes."""
    if run.recipe.tracking.wandb.mode != "off":
        run_id(run.folder)


def note(run: Run) -> list[Node]:
    """Write down the lineage of what is finished, for `kdscale wandb sync`."""
    found = nodes(run)
    write(run.folder, found)
    return found


def publish(run: Run) -> None:
    """At the end of a command: note the lineage, and where W&B is online show it there."""
    mode = run.recipe.tracking.wandb.mode
    if mode == "off":
        return
    try:
        found = note(run)
        if mode == "online":
            publish_aside(run.folder, len(found))
    except Exception as error:  # all is done by now, and it can be given later
        warn(f"the lineage of {run.folder} is not noted ({first_line(error)}); try: kdscale wandb sync {run.folder}")


def nodes(run: Run) -> list[Node]:
    """The finished jobs of a run, each after those that it depends on."""
    if not (run.dataset / FILE).exists() or data.missing(run):
        return []
    results = read_json(run.folder / evaluate.RESULTS)
    measured = results if results is not None and results["fingerprint"] == evaluate.fingerprint(run) else None
    of = _measured(measured)
    found = [_data(run), *_members(run, of)]
    if not logits.missing(run):
        found.append(_store(run, [node.job for node in found]))
    found += _students(run, of, {node.job for node in found})
    found += _specialists(run, of, {node.job for node in found})
    if measured is not None:
        uses = [node.job for node in found if node.made is not None and node.made.type in ("student", "specialist")]
        shown = evaluation.summary(measured["splits"])
        at = f"{FOLDER}/{evaluate.NAME}"
        found.append(Node(evaluate.NAME, evaluate.NAME, at, measured["fingerprint"], uses=uses, summary=shown))
    return found


def _data(run: Run) -> Node:
    manifest = run.manifest
    about = {
        "classes": len(manifest.classes),
        "samples": {split: manifest.samples(split) for split in manifest.splits},
        "shards": {split: len(shards) for split, shards in manifest.splits.items()},
        "bytes": sum(shard.bytes for shards in manifest.splits.values() for shard in shards),
    }
    made = Artefact("shards", manifest.fingerprint, _url(run.dataset / FILE), about)
    return Node(DATA, DATA, f"{FOLDER}/{DATA}", manifest.fingerprint, made=made)


def _members(run: Run, of: dict[str, dict[str, float]]) -> list[Node]:
    found = []
    for seed, checksum in teachers.members(run).items():
        folder = teachers.member_folder(run, seed)
        made = Artefact("member", checksum, _url(folder / WEIGHTS), {"seed": seed})
        at, mark = _inside(run, folder), teachers.fingerprint(run, seed)
        shown = of.get(f"teachers-seed-{seed}", {})
        found.append(Node("teachers", folder.name, at, mark, {"seed": seed}, [DATA], made, shown))
    return found


def _store(run: Run, uses: list[str]) -> Node:
    blocks, rows, size = logits.open_store(run).listing().totals()
    mark, place = logits.fingerprint(run), logits.where(run)
    about = {"blocks": blocks, "rows": rows, "bytes": size, "codec": run.recipe.logits.codec}
    url = f"{place}/{STORE}" if "://" in str(place) else _url(Path(place) / STORE)
    made = Artefact("store", digest([mark, logits.trained(run)]), url, about)
    return Node(logits.NAME, logits.STORE, f"{FOLDER}/{logits.NAME}", mark, uses=uses, made=made)


def _students(run: Run, of: dict[str, dict[str, float]], there: set[str]) -> list[Node]:
    found = []
    for job, checksum in student.finished_jobs(run).items():
        kind, seed = job
        uses = [DATA, logits.STORE] if kind == "student" else [DATA]
        name, mark = student.job_name(job), student.fingerprint(run, job)
        if there.issuperset(uses):
            found.append(_of_student(run, job, name, mark, checksum, {"seed": seed, "kind": kind}, uses, of))
    return found


def _of_student(
    run: Run,
    job: student.Job,
    name: str,
    mark: str,
    checksum: str,
    facts: dict[str, Any],
    uses: list[str],
    of: dict[str, dict[str, float]],
) -> Node:
    folder = student.job_folder(run, job)
    made = Artefact("student", checksum, _url(run.folder / folder / WEIGHTS), facts)
    return Node("student", name, folder, mark, facts, uses, made, of.get(name, {}))


def _specialists(run: Run, of: dict[str, dict[str, float]], there: set[str]) -> list[Node]:
    if not run.recipe.specialists.count:
        return []
    found = []
    trained = student.finished_jobs(run)
    for seed in run.recipe.student.seeds:
        job = specialists.generalist(run, seed)
        if job not in trained or student.job_name(job) not in there:
            continue
        for number, checksum in sorted(specialists.finished_ones(run, seed, trained[job]).items()):
            folder = specialists.specialist_folder(run, seed, number)
            facts: dict[str, Any] = {"seed": seed, "number": number}
            made = Artefact("specialist", checksum, _url(run.folder / folder / WEIGHTS), facts)
            name, mark = f"seed-{seed}/{Path(folder).name}", specialists.of_specialist(run, seed, number, trained[job])
            uses = [DATA, student.job_name(job)]
            found.append(Node(specialists.NAME, name, folder, mark, facts, uses, made))
    for job, checksum in unified.finished_jobs(run).items():
        kind, seed = job
        own = [node.job for node in found if node.facts["seed"] == seed and node.stage == specialists.NAME]
        uses = [DATA, logits.STORE, *own] if kind == unified.DISTILLED else [DATA]
        if there.union(own).issuperset(uses):
            mark, own_facts = unified.fingerprint(run, job), {"seed": seed, "kind": kind}
            found.append(_of_student(run, job, student.job_name(job), mark, checksum, own_facts, uses, of))
    return found


def _measured(results: dict[str, Any] | None) -> dict[str, dict[str, float]]:
    """What evaluation found of single models, by the kind and seed."""
    split = results["splits"][evaluate.TEST] if results else {}
    found: dict[str, dict[str, float]] = {}
    for kind, models in split.items():
        each = models if kind == "teachers" else models.get("runs", []) if isinstance(models, dict) else []
        found |= {f"{kind}-seed-{one['seed']}": evaluation.of_one(one) for one in each}
    return found


def _inside(run: Run, folder: Path) -> str:
    return str(folder.relative_to(run.folder))


def _url(path: Path) -> str:
    return path.absolute().as_uri()
