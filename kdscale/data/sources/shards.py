"""WebDataset tars that are there already: used where they lie, scanned once, never copied.

Unlike the other sources this one gives a manifest at once; its shards' names are absolute paths or URLs.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from braceexpand import braceexpand
from numpy.typing import NDArray

from kdscale import recipe
from kdscale.data import decoded, shards
from kdscale.data.index import Index, Places, forget, keep
from kdscale.data.manifest import FILE, SPLITS, Manifest, SampleSpec, Shard
from kdscale.data.sources import images, pool
from kdscale.data.sources.moments import Moments
from kdscale.data.sources.repeats import refuse_repeats
from kdscale.data.sources.splits import SYNONYMS, of_name
from kdscale.errors import UserError
from kdscale.files import read_json

OPTIONS = frozenset({*SPLITS, "classes"})
IN_PROCESS_BYTES = 32 << 20
NOWHERE = Index([], np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))


@dataclass(frozen=True)
class Scan:
    """What one pass over a tar found."""

    shard: Shard
    labels: NDArray[np.int64]
    """The different class numbers in it, ascending."""
    ids: NDArray[np.uint64]
    grey: bool
    moments: Moments
    index: Index


def manifest(
    data: recipe.Data,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    out: Path | None = None,
) -> Manifest:
    """The manifest of the tars that data.path, or data.options train, validation and test, name.

    A folder with a manifest of ours is taken as it is. Otherwise every tar is read once, several at a time;
    `progress` counts tars; where samples lie in them is noted beside the dataset, in `out`. Base names that begin with train, val or test say the split; where none does, whole tars
    are dealt to the splits by data.test and data.validation with the seed.

    Raises:
        UserError: no tars, one is damaged, samples disagree, keys repeat, or there are too few tars to deal.
    """
    if (known := ready(data)) is not None:
        return known
    urls = _urls(data)
    everything = [url for group in urls.values() for url in group]
    if len(set(everything)) < len(everything):
        twice = next(url for url in everything if everything.count(url) > 1)
        raise UserError(f"{twice}: named twice; give each tar to one split only")
    spec = _spec(everything[0])
    if data.image_size is not None and spec.shape[1:] != (data.image_size, data.image_size):
        raise UserError(
            f"data.image_size: tars are used as they are, and {everything[0]} holds samples of shape {spec.shape}; "
            "leave it out, or import the images from a folder"
        )
    classes = _given_classes(data.options.get("classes"))
    tasks = [(url, spec, None if classes is None else len(classes)) for url in everything]
    scans: dict[str, Scan] = {}
    for number, found in pool.each(scan, tasks, workers or (1 if _small(everything) else pool.cores())):
        if out is not None:
            keep(out, found.shard, found.index)
        scans[everything[number]] = replace(found, index=NOWHERE)
        if progress is not None:
            progress(len(scans), len(tasks))
    ordered = [scans[url] for url in everything]
    if out is not None and decoded.fits(spec, sum(one.shard.samples for one in ordered)):
        forget(out)  # it will be kept decoded
    refuse_repeats([(one.shard.name, one.ids) for one in ordered])
    if classes is None:
        classes = _numbered(ordered)
    splits = _deal({split: [scans[url] for url in group] for split, group in urls.items()}, data, seed)
    _every_class(splits["train"], classes)
    moments = Moments(spec)
    for one in splits["train"]:
        moments.merge(one.moments)
    mean, std = moments.result()
    if spec.kind == "image" and all(one.grey for one in ordered):
        spec, mean, std = SampleSpec(kind="image", shape=(1, *spec.shape[1:])), mean[:1], std[:1]
    return Manifest(
        classes=classes,
        sample=spec,
        mean=mean,
        std=std,
        splits={split: [one.shard for one in splits[split]] for split in SPLITS},
    )


def scan(task: tuple[str, SampleSpec, int | None]) -> Scan:
    """Read one tar to its end: every sample decoded, every byte hashed. The task is (url, spec, classes).

    Raises:
        UserError: damaged, empty, a sample does not decode or fit the spec, or a label is missing or out of range.
    """
    url, spec, classes = task
    hashing = shards.Hashing()
    grey, labels, keys, moments, places = True, list[int](), list[str](), Moments(spec), Places()
    for key, members in shards.scan(url, hashing, places):
        where = f"{url}: {key}"
        extension = shards.payload_extension(url, key, members)
        payload = members[extension]
        if spec.kind == "array" and extension != "npy":
            raise UserError(f"{where}: an image where the first tar holds arrays; keep one kind in a dataset")
        x = shards.decode_payload(where, extension, payload, spec)
        check_array(where, x)
        if extension == "npy":
            grey = grey and spec.shape[0] == 1
        else:
            grey = grey and images.is_grey(images.header(where, io.BytesIO(payload))[1])
        moments.add(x)
        labels.append(shards.decode_label(where, members, classes))
        keys.append(key)
    if not keys:
        raise UserError(f"{url}: the tar holds no samples; remove it or leave it out")
    return Scan(
        shard=Shard(name=url, samples=len(keys), bytes=hashing.size, sha256=hashing.hash.hexdigest()),
        labels=np.unique(np.array(labels, np.int64)),
        ids=shards.ids_of(keys),
        grey=grey,
        moments=moments,
        index=places.index(keys, np.array(labels, np.int64)),
    )


def check_array(where: str, x: NDArray[Any]) -> None:
    """Refuse an array that is no numbers, or holds NaN or infinity."""
    if x.dtype.kind not in "biuf":
        raise UserError(f"{where}: an array of type {x.dtype} where numbers are expected; store float32")
    with np.errstate(over="ignore"):
        finite = x.dtype.kind != "f" or bool(np.isfinite(x.astype(np.float32)).all())
    if not finite:
        raise UserError(f"{where}: the array holds NaN or infinite numbers; mend or drop the sample")


def _small(urls: list[str]) -> bool:
    """Whether all tars are read faster than worker processes start."""
    return not any(_is_url(url) for url in urls) and sum(Path(url).stat().st_size for url in urls) < IN_PROCESS_BYTES


def ready(data: recipe.Data) -> Manifest | None:
    """The manifest of ours in data.path, its shards named absolutely and looked at."""
    if data.path is None or data.options or _is_url(data.path) or not (Path(data.path) / FILE).is_file():
        return None
    folder = Path(data.path).absolute()
    try:
        tree = read_json(folder / FILE)
    except ValueError:
        tree = {"fingerprint": None, "splits": None}  # Manifest.load says what is wrong with it
    if not isinstance(tree, dict) or not {"fingerprint", "splits"} <= tree.keys():
        return None
    ready = Manifest.load(folder)
    splits = {}
    for split, group in ready.splits.items():
        named = []
        for shard in group:
            name = shard.name if _is_url(shard.name) else str(folder / shard.name)
            if not _is_url(name):
                _look(name, shard)
            named.append(shard.model_copy(update={"name": name}))
        splits[split] = named
    return ready.model_copy(update={"splits": splits})


def _look(name: str, shard: Shard) -> None:
    if not Path(name).is_file():
        raise UserError(f"{name}: the manifest names this shard but it is not there; restore it or import again")
    size = Path(name).stat().st_size
    if size != shard.bytes:
        raise UserError(
            f"{name}: the tar has {size} bytes where the manifest says {shard.bytes} (truncated or changed); "
            "restore it or import again"
        )


def _urls(data: recipe.Data) -> dict[str | None, list[str]]:
    """Tars by split; None is the pool."""
    for option in data.options:
        if option not in OPTIONS:
            raise UserError(
                f"data.options.{option}: the source shards has no such option; known: {', '.join(sorted(OPTIONS))}"
            )
    root = None if data.path is None or _is_url(data.path) else Path(data.path)
    patterns = {split: data.options[split] for split in SPLITS if split in data.options}
    urls: dict[str | None, list[str]] = {}
    if patterns:
        for split, pattern in patterns.items():
            group = pattern if isinstance(pattern, list) else [pattern]
            if not group or not all(isinstance(one, str) for one in group):
                raise UserError(f"data.options.{split}: must be a path, URL or brace pattern, or a list of them")
            urls[split] = [url for one in group for url in _expand(one, root, f"data.options.{split}")]
        if "train" not in urls:
            raise UserError("data.options.train: validation and test are named but train is not; name it too")
        return urls
    if data.path is None:
        raise UserError("data.path: the source shards needs one; give a folder of tars, a tar, a pattern or a URL")
    for url in _expand(data.path, None, "data.path"):
        urls.setdefault(_split_of(url, root), []).append(url)
    if None in urls and "train" in urls:
        raise UserError(
            f"{urls[None][0]}: its name says no split while others say train; rename it, or name the splits with "
            "data.options train, validation and test"
        )
    if None not in urls and "train" not in urls:
        raise UserError(f"data.path: {data.path} has no training tars; add some, or name them with data.options.train")
    return urls


def _expand(pattern: str, root: Path | None, field: str) -> list[str]:
    if not _is_url(pattern):
        path = root / pattern if root is not None else Path(pattern)
        if path.is_dir():
            tars = sorted(entry for entry in path.rglob("*.tar") if not entry.name.startswith("."))
            if not tars:
                raise UserError(f"{field}: {path} holds no .tar files; give the folder that holds the tars")
            return [str(tar.absolute()) for tar in tars]
        pattern = str(path)
        if path.is_file():
            return [str(path.absolute())]
    try:
        expanded = list(braceexpand(pattern))
    except ValueError:
        raise UserError(f"{field}: {pattern} has a brace without its partner; mend the pattern") from None
    urls = []
    for url in expanded:
        if not _is_url(url):
            if not Path(url).is_file():
                raise UserError(f"{field}: {url} does not exist; restore it or mend the pattern")
            urls.append(str(Path(url).absolute()))
        else:
            urls.append(url)
    return urls


def _is_url(name: str) -> bool:
    return "://" in name or name.startswith("pipe:")


def _split_of(url: str, root: Path | None) -> str | None:
    """By the base name of the tar, else by its folder's name, unless that folder is the one that was given."""
    match = re.search(r"(?:([^/\s'\"]*)/)?([^/\s'\"]+)\.tar", url)
    if match is None:
        return None
    folder = "" if root is not None and Path(url).parent == root.absolute() else match[1] or ""
    return of_name(match[2]) or SYNONYMS.get(folder.lower())


def _spec(url: str) -> SampleSpec:
    """From the first sample; images count as colour until all are known to be grey."""
    for key, members in shards.scan(url):
        where = f"{url}: {key}"
        extension = shards.payload_extension(url, key, members)
        if extension != "npy":
            width, height = images.header(where, io.BytesIO(members[extension]))[2]
            return SampleSpec(kind="image", shape=(3, height, width))
        try:
            array = np.load(io.BytesIO(members[extension]), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{where}: the array does not decode ({error}); replace or remove it") from None
        image = array.dtype == np.uint8 and array.ndim == 3 and array.shape[0] in (1, 3)
        return SampleSpec(kind="image" if image else "array", shape=array.shape)
    raise UserError(f"{url}: the tar holds no samples; remove it or leave it out")


def _given_classes(given: Any) -> list[str] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len({str(name) for name in given}) < max(2, len(given)):
        raise UserError("data.options.classes: must be a list of two or more different class names")
    return [str(name) for name in given]


def _numbered(scans: list[Scan]) -> list[str]:
    highest = max(int(one.labels.max()) for one in scans)
    total = sum(one.shard.samples for one in scans)
    if highest >= total:
        name = next(one.shard.name for one in scans if one.labels.max() == highest)
        raise UserError(
            f"{name}: the label {highest} with only {total} samples leaves classes without any; "
            "number the classes from 0 without gaps"
        )
    return [str(number) for number in range(highest + 1)]


def _every_class(train: list[Scan], classes: list[str]) -> None:
    there = set(np.concatenate([one.labels for one in train]).tolist())
    if len(there) < 2:
        raise UserError("the training tars hold samples of one class only; a classifier needs at least two")
    missing = [name for number, name in enumerate(classes) if number not in there]
    if missing:
        raise UserError(
            f"the class {missing[0]} has no sample in the training tars; mix the classes over the tars, name the "
            "splits with data.options, or mend data.options.classes"
        )


def _deal(groups: dict[str | None, list[Scan]], data: recipe.Data, seed: int) -> dict[str, list[Scan]]:
    """Whole tars for the splits that no name says, drawn from the pool or from the training tars."""
    train = groups.get("train") or groups.get(None) or []
    splits = {"validation": groups.get("validation", []), "test": groups.get("test", [])}
    rng = np.random.default_rng([seed, 2])
    for split, share in (("test", data.test), ("validation", data.validation)):
        if splits[split] or (split == "validation" and share == 0):
            continue
        if share == 0:
            raise UserError("data.test: is 0 and no tar is named test; name some, or set a fraction or a count")
        total = sum(one.shard.samples for one in train)
        wanted = share if share >= 1 else share * total
        order = [int(row) for row in rng.permutation(len(train))]
        taken: list[int] = []
        while order and (not taken or sum(train[row].shard.samples for row in taken) < wanted):
            taken.append(order.pop())
        if not order:
            raise UserError(
                f"data.{split}: {len(train)} training tar{'s are' if len(train) > 1 else ' is'} too few to keep whole "
                f"tars apart for the {split} split; bring more tars, name them with data.options.{split}"
                + (", or set data.validation to 0" if split == "validation" else "")
            )
        splits[split] = [train[row] for row in sorted(taken)]
        train = [train[row] for row in sorted(order)]
    return {"train": train, **splits}
