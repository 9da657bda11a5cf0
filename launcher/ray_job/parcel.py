"""What travels to the cluster: the resolved recipe, the user's own modules that it names, and nothing else.

A recipe names code as `package.module:function`. Such a module is taken from the working directory, with the modules beside
it that it imports; one that is not there is expected on the cluster, like kdscale itself.
"""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdscale.errors import UserError
from kdscale.recipe import Recipe

RECIPE = "recipe.yaml"
_NAMED = re.compile(r"([A-Za-z_]\w*)(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def pack(folder: Path, recipe: Recipe, beside: Path) -> tuple[list[str], list[str]]:
    """Fill a folder with what is to travel.

    Args:
        beside: the directory in which the user's own modules lie.

    Returns:
        The names of the modules in it, and of those that the recipe names and the directory lacks.

    Raises:
        UserError: there is no such directory.
    """
    if not beside.is_dir():
        raise UserError(f"--working-dir {beside}: is no directory; give the one in which your own modules lie")
    (folder / RECIPE).write_text(recipe.dump(), encoding="utf-8")
    modules = own_modules(recipe, beside)
    for path in modules:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=_LEFT_OUT)
        else:
            shutil.copyfile(path, folder / path.name)
    there = {path.stem for path in modules}
    return [path.name for path in modules], sorted(set(_named(recipe)) - there)


def own_modules(recipe: Recipe, beside: Path) -> list[Path]:
    """The files and packages of the working directory that a recipe needs, in order of their names."""
    names = _named(recipe)
    found: dict[str, Path] = {}
    while names:
        name = names.pop()
        path = next((p for p in (beside / name, beside / f"{name}.py") if _is_module(p)), None)
        if path is not None and name not in found:
            found[name] = path
            sources = [path] if path.is_file() else sorted(path.rglob("*.py"))
            names += [imported for source in sources for imported in _imports(source)]
    return [found[name] for name in sorted(found)]


def _named(recipe: Recipe) -> list[str]:
    """The modules, or their packages, of the functions that a recipe names."""
    return [match[1] for text in _texts(recipe.model_dump(mode="json")) if (match := _NAMED.fullmatch(text))]


def _is_module(path: Path) -> bool:
    return (path.suffix == ".py" and path.is_file()) or (path.is_dir() and any(path.rglob("*.py")))


def _imports(source: Path) -> Iterator[str]:
    """Names at the head of what a file imports; none of a file that is no Python."""
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value)
