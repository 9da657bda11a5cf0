"""Compaction: members fused on disk, so that a student reads one block where it read N.

Logits by mean logit stay open to any temperature. A mean probability is taken at one temperature T and stored as
T log p, which that temperature turns back into p. Counts of draws add. Top-k heads do not: a class in one member's
head may lie in another's tail.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from kdscale.ensemble.fusion import RULES
from kdscale.ensemble.targets import fused
from kdscale.errors import UserError
from kdscale.files import digest
from kdscale.logits.codecs import Codec
from kdscale.logits.dense import Dense
from kdscale.logits.records import Fused, Record, Slot
from kdscale.logits.rows import Logits, check_temperature
from kdscale.logits.sampled import Sampled, add, counts_of, pack
from kdscale.logits.store import Store


def set_name(made_of: Fused) -> str:
    """The name that a fused set goes by in the store."""
    return f"fused-{digest(made_of.model_dump())[:12]}"


def make(members: dict[str, str], weights: dict[str, float], rule: str, temperature: float, codec: Codec) -> Fused:
    """What a fused set of these members is made of; the temperature only where it matters.

    Raises:
        UserError: the codec's blocks cannot be fused, or not by this rule, at this temperature or with these weights.
    """
    if not isinstance(codec, Dense | Sampled):
        raise UserError(
            "fuse: top-k heads of different members do not add up (a class in one's head may be in another's tail); "
            "members of logits.codec dense or sampled can be fused"
        )
    check_temperature(temperature)
    total = sum(weights.get(name, 1.0) for name in members)
    shares = {name: weights.get(name, 1.0) / total for name in members}
    if isinstance(codec, Sampled):
        if rule != "mean_probability" or len(set(shares.values())) > 1:
            raise UserError("fuse: counts of draws add up to the plain mean probability alone; take logits.codec dense")
        if temperature != codec.temperature:
            raise UserError(f"fuse: the store's draws are of T = {codec.temperature:g}, not {temperature:g}")
    elif rule not in RULES:
        raise UserError(f"fuse: {rule} is not one of {', '.join(RULES)}")
    open_ended = isinstance(codec, Dense) and rule == "mean_logit"
    return Fused(members=members, weights=shares, rule=rule, temperature=None if open_ended else float(temperature))


def fuse_shard(store: Store, shard: str, view: int, made_of: Fused, shard_sha256: str) -> Record:
    """Read a shard's members and commit their fused block; one that is there is left alone.

    Raises:
        UserError: a member's block is missing, damaged or of other weights.
    """
    slot = Slot(shard, view, set_name(made_of))
    if (there := store.record(slot)) is not None:
        return there
    blocks = [store.read(Slot(shard, view, name), checkpoint) for name, checkpoint in made_of.members.items()]
    keys = blocks[0].keys
    if any(block.keys != keys for block in blocks):
        raise UserError(f"{store.name}: the members' blocks of {shard}, view {view}, differ in their keys; see fsck")
    codec: Codec
    if isinstance(store.codec, Sampled):
        codec = Sampled(store.codec.draws * len(blocks), store.codec.temperature)
        columns = {"tokens": _summed([block.table.column("tokens").combine_chunks() for block in blocks], store)}
    else:
        assert isinstance(store.codec, Dense)
        codec = Dense(store.codec.dtype, made_of.temperature)
        columns = codec.encode(
            _fused_logits([block.at(made_of.temperature or 1.0) for block in blocks], made_of), _NONE
        )
    return store.commit_fused(slot, keys, columns, codec, made_of, shard_sha256)


_NONE = np.zeros(0)


def _fused_logits(rows: Sequence[object], made_of: Fused) -> np.ndarray:
    """(N, C) float32 logits whose softmax is the fused distribution."""
    logits = [r for r in rows if isinstance(r, Logits)]
    weights = [made_of.weights[name] for name in made_of.members]
    if made_of.temperature is None:
        total = np.zeros(logits[0].values.shape, np.float32)
        for r, weight in zip(logits, weights, strict=True):
            total += np.float32(weight) * r.values.astype(np.float32)
        return total
    t = made_of.temperature
    p = fused(logits, made_of.rule, t, weights)["p"]
    logits_of_p = t * p.clamp_min(torch.finfo(torch.float32).tiny).log()
    # the largest is 0: a softmax does not mind, and narrow types err in proportion to what they hold
    return (logits_of_p - logits_of_p.amax(1, keepdim=True)).numpy() if len(p) else logits_of_p.numpy()


def _summed(tokens: Sequence[pa.Array], store: Store) -> pa.Array:
    classes = store.info.classes
    triples = [counts_of(column, classes) for column in tokens]
    row, ids, counts = (np.concatenate([triple[part] for triple in triples]) for part in range(3))
    return pack(*add(row, ids, counts, classes), rows=len(tokens[0]), classes=classes)
