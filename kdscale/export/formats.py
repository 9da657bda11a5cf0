"""One file a format. Each is written and loaded here; what is loaded is a function from raw samples to logits."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kdscale.errors import UserError
from kdscale.export.served import KEY, About, Served
from kdscale.models import zoo

Format = Literal["safetensors", "onnx", "torch-export"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIX: dict[Format, str] = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}
Model = Callable[[NDArray[np.generic]], NDArray[np.float32]]
"""(B, *shape) raw samples -> (B, C) logits."""

EXAMPLE = 2
"""Rows of the batch that is traced; one would be taken for a constant."""


def write(model: Served, about: About, to: Format, path: Path) -> None:
    """Write a model; any batch size may be asked of the file.

    Raises:
        UserError: the format's package is missing, or the model cannot be traced.
    """
    match to:
        case "safetensors":
            tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
            save_file(tensors, path, metadata={KEY: about.model_dump_json()})
            path.chmod(0o644)  # safetensors keeps its files to their owner
        case "onnx":
            _write_onnx(model, about, path)
        case "torch-export":
            with _refused(to), _quiet():
                program = torch.export.export(
                    model, (about.example(EXAMPLE),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}
                )
                with open(path, "wb") as file:  # by name it would want another suffix
                    torch.export.save(program, file, extra_files={KEY: about.model_dump_json()})


def load(path: Path, to: Format) -> tuple[Model, About]:
    """Load what was written, as one that serves it would.

    Raises:
        UserError: not such a file, or its package is missing.
    """
    match to:
        case "safetensors":
            return _load_safetensors(path)
        case "onnx":
            return _load_onnx(path)
        case "torch-export":
            with _quiet():
                extra = {KEY: ""}
                with open(path, "rb") as file:
                    module = torch.export.load(file, extra_files=extra).module()
            return _of_torch(module), _about(path, extra[KEY])


def _write_onnx(model: Served, about: About, path: Path) -> None:
    onnx = _package("onnx")
    _package("onnxscript")
    with _refused("onnx"), _quiet():
        program = torch.onnx.export(
            model,
            (about.example(EXAMPLE),),
            dynamo=True,
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.doc_string = "Raw samples x to logits; the metadata `kdscale` names the classes."
    onnx.helper.set_model_props(proto, {KEY: about.model_dump_json()})
    onnx.save_model(proto, str(path))


def _load_onnx(path: Path) -> tuple[Model, About]:
    runtime = _package("onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds are not public
        raise UserError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from None

    def run(x: NDArray[np.generic]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(["logits"], {"x": x})[0]
        return logits

    return run, _about(path, session.get_modelmeta().custom_metadata_map.get(KEY))


def _load_safetensors(path: Path) -> tuple[Model, About]:
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(path, (file.metadata() or {}).get(KEY))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None
    network = zoo.build(about.network, about.sample.shape, len(about.classes), 0)
    model = Served(network, torch.empty_like(tensors["shift"]), torch.empty_like(tensors["factor"]))
    model.load_state_dict(tensors)
    return _of_torch(model.eval()), about


def _of_torch(model: Callable[[torch.Tensor], torch.Tensor]) -> Model:
    @torch.no_grad()
    def run(x: NDArray[np.generic]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = model(torch.from_numpy(x)).numpy()
        return logits

    return run


def _about(path: Path, text: str | None) -> About:
    try:
        return About.model_validate_json(text or "")
    except ValidationError:
        raise UserError(f"{path}: was not written by kdscale export; export the model again") from None


def _package(name: str) -> Any:
    try:
        return __import__(name, fromlist=["helper"])
    except ImportError:
        raise UserError(
            f"the format onnx needs the package {name}; pip install -e '.[export]' in kdscale's folder"
        ) from None


@contextmanager
def _refused(to: Format) -> Iterator[None]:
    """Say in a sentence what the tracer said in many."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--to {to}: torch cannot trace this model ({reason}); mend its forward, or take --to safetensors"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracers' warnings, which are about torch's own code."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
