"""What channels of a residual net respond to, class by class, for two seeds side by side (Allen-Zhu & Li 2023, figure 5)."""

import base64
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kdscale.models import channels
from kdscale.pipeline import evaluate, workers
from kdscale.pipeline.run import Run
from kdscale.studies.findings import Findings, Row
from kdscale.studies.lab import Lab, results

SEEDS = (2, 2)
QUICK = ("teachers.model={name: resnet, depth: 8, width: 8}", "teachers.epochs=2", "data.train=2000")
SAMPLES, CHANNELS, PATCHES = 1000, 2, 8
DEPTH = 0.6
"""Which layer is looked at: so far into the net."""


def measure(lab: Lab) -> Findings:
    seen = lab.run("views", f"teachers.count={lab.seeds}", measure=views)
    rows = [
        Row("accuracy", [100 * one["accuracy"] for one in seen["test"]]),
        Row("best channel of a class, area under its ROC curve", [100 * one["separation"] for one in seen["nets"]]),
    ]
    caption = (
        f"The {PATCHES} test patches that excite a channel most; channels are those of layer {seen['layer']} whose largest "
        "activation tells the class best (in brackets the area under the ROC curve, %). The page is a picture and claims nothing."
    )
    columns = [f"net {number}" for number in range(len(seen["nets"]))]
    panels = [{"title": "Views", "caption": caption, "columns": columns, "rows": seen["rows"]}]
    return Findings(rows, pictures=panels, notes=["Nothing is asserted: the paper's figure is a picture too."])


def views(run: Run) -> dict[str, Any]:
    """For each class the most telling channels of each member, with their patches as PNGs in the page's own text."""
    device, dataset = torch.device("cpu"), workers.dataset(run, evaluate.TEST)
    decoded = dataset.decoded(0)
    x, y = decoded.x[:SAMPLES], torch.from_numpy(decoded.y[:SAMPLES])
    samples = workers.shared_pixels(run, device)(x, decoded.ids[:SAMPLES], np.zeros(len(x), np.int64))
    shape, classes = run.manifest.sample.shape, run.manifest.classes
    found: dict[str, Any] = {"nets": [], "rows": [], "test": results(run)["teachers"]}
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for model in (model for model in evaluate.models(run) if model.like_teachers):
        net = workers.predictor(model.folder, model.checksum, model.spec, run.manifest, device).model
        known = channels.layers(net, shape)
        found["layer"] = known[int(DEPTH * (len(known) - 1))]
        maps = channels.activations(net, found["layer"], samples)
        apart = channels.separation(maps, y, len(classes))
        found["nets"].append({"separation": float(apart.amax(1).mean())})
        for label, name in enumerate(classes):
            for rank, channel in enumerate(apart[label].argsort(descending=True)[:CHANNELS].tolist()):
                places = channels.patches(maps, channel, shape[1], max(4, shape[1] // 2), PATCHES)
                images = [_png(x[p.sample, :, p.top : p.top + p.size, p.left : p.left + p.size]) for p in places]
                cell = {"label": f"channel {channel} ({100 * float(apart[label, channel]):.0f})", "images": images}
                rows.setdefault((label, rank), {"label": name, "cells": []})["cells"].append(cell)
    found["rows"] = [rows[key] for key in sorted(rows)]
    return found


def _png(pixels: NDArray[Any]) -> str:
    """(channels, h, w) uint8 as a data URL."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
