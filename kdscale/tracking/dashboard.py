"""The W&B dashboard as code: a workspace made of configs/wandb/metrics.yaml, found again by its name.

It is written with wandb-workspaces. A dashboard of that name that is there already is replaced in place, so its address stays.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import yaml

from kdscale.errors import RunFailure, UserError
from kdscale.tracking import names

WIDTH, HEIGHT, COLUMNS = 8, 6, 3
"""Of a panel, in the grid's units, and how many stand side by side."""
_VIEWS = """
query Views($entityName: String, $name: String, $viewType: String) {
  project(name: $name, entityName: $entityName) {
    allViews(viewType: $viewType) { edges { node { id name displayName } } }
  }
}
"""


def read(path: Path | None) -> dict[str, Any]:
    """The file of metrics, checked: a panel shows only what is named in it.

    Raises:
        UserError: the file cannot be read, or a panel shows a metric that nobody logs.
    """
    where = path or names.FILE
    try:
        tree = names.load(where)
        known = {*tree["metrics"], *tree["system"]}
        sections = [(section["name"], section["panels"]) for section in tree["dashboard"]["sections"]]
    except (OSError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or getattr(error, "problem", None) or type(error).__name__
        raise UserError(
            f"{where}: cannot be read as a list of metrics ({why}); begin with configs/wandb/metrics.yaml"
        ) from None
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{where}: is no list of metrics (metrics, system, and dashboard with its sections and panels); "
            "begin with configs/wandb/metrics.yaml"
        ) from None
    for section, panels in sections:
        for panel in panels:
            for metric in shown(panel):
                if metric not in known:
                    raise UserError(
                        f"{where}: panel '{panel.get('title')}' of {section} shows {metric}, which nobody logs"
                    )
    return tree


def shown(panel: dict[str, Any]) -> list[str]:
    """The metrics of a panel."""
    number = [panel["number"]] if "number" in panel else []
    return [*panel.get("lines", []), *panel.get("bars", []), *number]


def workspace(tree: dict[str, Any], entity: str, project: str) -> Any:
    """The dashboard as wandb-workspaces has it."""
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(
            name=section["name"],
            panels=[_panel(panel, place) for place, panel in enumerate(section["panels"])],
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(
                columns=COLUMNS, rows=(len(section["panels"]) + COLUMNS - 1) // COLUMNS
            ),
        )
        for section in tree["dashboard"]["sections"]
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=tree["dashboard"]["name"],
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=names.STEP, max_runs=100),
        auto_generate_panels=False,
    )


def spec(made: Any) -> dict[str, Any]:
    """What is sent to the server."""
    found: dict[str, Any] = made._to_model().model_dump(by_alias=True, exclude_none=True)
    return found


def save(made: Any) -> bool:
    """Create the dashboard, or put it in the place of that of its name; whether it was there.

    Raises:
        UserError: there is no key.
        RunFailure: the server cannot be used.
    """
    import wandb

    try:
        before = _find(made.entity, made.project, made.name)
        if before is not None:
            made._internal_id, made._internal_name = before["id"], before["name"]
        wandb.setup(wandb.Settings(silent=True, quiet=True))
        with contextlib.redirect_stderr(io.StringIO()):  # it says what the command says better
            made.save()
    except wandb.errors.UsageError:
        raise UserError("there is no key for W&B; set WANDB_API_KEY, or see the dashboard with --dry-run") from None
    except Exception as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise RunFailure(
            f"W&B does not take the dashboard of {made.entity}/{made.project} ({first}); "
            "see that key, server and entity are right (WANDB_API_KEY, --base-url, --entity) and try again"
        ) from None
    return before is not None


def _find(entity: str, project: str, name: str) -> dict[str, Any] | None:
    import wandb
    from wandb_workspaces.workspaces.internal import execute_graphql

    asked = {"entityName": entity, "name": project, "viewType": "project-view"}
    answer = execute_graphql(wandb.Api(), _VIEWS, asked)
    edges = ((answer.get("project") or {}).get("allViews") or {}).get("edges", [])
    return next((edge["node"] for edge in edges if edge["node"]["displayName"] == name), None)


def _panel(panel: dict[str, Any], place: int) -> Any:
    import wandb_workspaces.reports.v2 as wr

    at = wr.Layout(x=place % COLUMNS * WIDTH, y=place // COLUMNS * HEIGHT, w=WIDTH, h=HEIGHT)
    each = wr.Config(panel["each"]) if "each" in panel else None
    title = panel["title"]
    if "number" in panel:
        return wr.ScalarChart(title=title, metric=panel["number"], groupby_aggfunc="max", layout=at)
    if "bars" in panel:
        return wr.BarPlot(title=title, metrics=list(panel["bars"]), orientation="h", groupby=each, layout=at)
    band = {"aggregate": True, "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"} if panel.get("band") else {}
    return wr.LinePlot(title=title, x=panel["x"], y=list(panel["lines"]), groupby=each, layout=at, **band)
