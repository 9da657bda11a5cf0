"""Recipes from files: read, overridden, resolved, compared.

`load` reads a file, applies ``section.field=value`` overrides, refuses what it does not know and returns a frozen
`Recipe` in which every path is absolute and the DeepSpeed JSON is inlined, so that the saved recipe says all there is to say.
"""

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from kdscale.errors import UserError
from kdscale.recipe import Recipe, Student, Teachers

Part = TypeVar("Part", Teachers, Student)


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file, apply ``section.field=value`` overrides, resolve its paths.

    Relative paths are looked for from the current directory, then from the recipe's folder.

    Raises:
        UserError: no such file, not YAML, an unknown field (with the nearest known one), a value out of range.
    """
    path = Path(path)
    tree = _read_yaml(path)
    for override in overrides or []:
        _apply(tree, override)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{_origin(path, error, overrides or [])}: {explain(error)}") from None
    return _resolve(recipe, path.parent)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Each field in which two recipes differ, as ``section.field: old -> new``."""
    a, b = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [f"{key}: {a.get(key)} -> {b.get(key)}" for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such recipe; give the path of a YAML file, such as configs/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a recipe ({error}); give a YAML file") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}); mend it there") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a mapping of sections such as data, teachers and student")
    unshared: dict[str, Any] = _unshared(tree)
    return unshared


def _unshared(value: Any) -> Any:
    """The same tree with no part in two places, so that an override of one does not change what a YAML alias made of it."""
    if isinstance(value, dict):
        return {key: _unshared(part) for key, part in value.items()}
    return [_unshared(part) for part in value] if isinstance(value, list) else value


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one ``section.field=value`` in a tree of mappings, the value read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"override '{override}' is not of the form section.field=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override '{override}': the value is not valid YAML; quote it") from None
    *parents, last = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        if isinstance(child, str) and parent in ("model", "fusion"):  # a string is short for the name alone
            child = {"name" if parent == "model" else "rule": child}
        if child is None:
            child = {}
        if not isinstance(child, dict):
            raise UserError(f"override '{override}': {parent} is a value, not a section")
        node[parent] = child
        node = child
    node[last] = value


def _first(error: ValidationError) -> Any:
    """The problem that is reported: unknown fields before others."""
    problems = error.errors()
    return next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])


def _origin(path: Path, error: ValidationError, overrides: list[str]) -> str:
    """What to mend: the override that set the field, else the file."""
    problem = _first(error)
    where = [str(part) for part in problem["loc"]]
    unknown = problem["type"] == "extra_forbidden"
    if problem["type"] == "value_error":  # of a section or of the whole recipe; the sentence begins with the field
        where = re.split(r"[: ]", explain(error), maxsplit=1)[0].split(".")
    for override in reversed(overrides):
        key = override.partition("=")[0].strip().split(".")
        if where and (where[: len(key)] == key or (unknown and key[: len(where)] == where)):
            return f"override '{override}'"
    return str(path)


def explain(error: ValidationError, section: type[BaseModel] = Recipe) -> str:
    """The first validation error of a recipe or a section of one, unknown fields before others, as one sentence."""
    problem = _first(error)
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_fields(problem["loc"][:-1], section)
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"unknown field {where}; {hint}"
    if problem["type"] == "missing":
        return f"the field {where} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":  # a section's own check, which names the field
        return f"{where}.{message}" if where else message
    return f"{where}: {message}"


def _known_fields(location: tuple[int | str, ...], section: type[BaseModel]) -> list[str]:
    model: Any = section
    for part in location:
        field = model.model_fields.get(part)
        if field is None:
            return []
        model = field.annotation
    return list(model.model_fields)


def _resolve(recipe: Recipe, folder: Path) -> Recipe:
    data = recipe.data
    if data.path and "://" not in data.path and not data.path.startswith("pipe:"):
        data = data.model_copy(update={"path": str(_find(data.path, folder))})
    teachers, student = _with_deepspeed(recipe.teachers, folder), _with_deepspeed(recipe.student, folder)
    if teachers.weights:
        teachers = teachers.model_copy(update={"weights": [str(_find(path, folder)) for path in teachers.weights]})
    logits = recipe.logits
    if logits.path and "://" not in logits.path:
        logits = logits.model_copy(update={"path": str(Path(logits.path).expanduser().absolute())})
    return recipe.model_copy(update={"data": data, "teachers": teachers, "student": student, "logits": logits})


def _with_deepspeed(part: Part, folder: Path) -> Part:
    """A section with its DeepSpeed file read, and what that says of the section's own fields."""
    if isinstance(part.deepspeed, str):
        config = _read_deepspeed(_find(part.deepspeed, folder), part.section)
        part = part.model_copy(update={"deepspeed": config})
    return part.model_copy(update=_stated_by_deepspeed(part))


def _find(path: str, folder: Path) -> Path:
    given = Path(path).expanduser()
    for candidate in (given, folder / given):
        if candidate.exists():
            return candidate.resolve()
    return Path(os.path.normpath(given.absolute()))


def _stated_by_deepspeed(student: Teachers | Student) -> dict[str, Any]:
    """What the DeepSpeed configuration says of the recipe's own fields, where the recipe says nothing."""
    assert isinstance(student.deepspeed, dict)
    stated: dict[str, Any] = {}
    optimizer = student.deepspeed.get("optimizer")
    params = optimizer.get("params") if isinstance(optimizer, dict) else None
    for name in ("lr", "weight_decay"):
        value = params.get(name) if isinstance(params, dict) else None
        if isinstance(value, int | float) and name not in student.model_fields_set:
            stated[name] = float(value)
    scheduler = student.deepspeed.get("scheduler")
    if scheduler is not None and "schedule" not in student.model_fields_set:
        stated["schedule"] = "constant"
    peaks = scheduler.get("params") if isinstance(scheduler, dict) else None
    for name in ("warmup_max_lr", "cycle_max_lr"):
        value = peaks.get(name) if isinstance(peaks, dict) else None
        if isinstance(value, int | float) and "lr" not in student.model_fields_set:
            stated.setdefault("lr", float(value))
    return stated


def _read_deepspeed(path: Path, section: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{section}.deepspeed: there is no file {path}; give a DeepSpeed JSON or a mapping") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{section}.deepspeed: {path} is not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{section}.deepspeed: {path} must hold a JSON object")
    return config


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
