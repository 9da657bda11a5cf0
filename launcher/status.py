"""`kdscale status`: what a run has done and is doing; on a terminal a view that stays, else plain lines.

Both are made of what `pipeline.overview` and the clusters say; the view is read again every second while anything works on
the run, and ends with it.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher import jobs

EVERY = 1.0
"""Seconds between two looks."""
COLOURS = {"done": "green", "running": "cyan", "failed": "bold red", "silent": "yellow", "stopped": "yellow"}
BUSY = ("running", "silent", "failed", "stopped", "queued", "done")
"""Which jobs come first where not all of them have room."""


def look(run: Path) -> dict[str, Any]:
    """Everything that is known of a run: stages, jobs, and how its jobs on clusters stand."""
    from kdscale.pipeline.overview import overview
    from kdscale.pipeline.run import has_driver

    clusters = jobs.states(run)
    live = any(job["live"] for every in clusters.values() for job in every)
    return {**overview(run), **clusters, "live": live or has_driver(run)}


def lines(seen: dict[str, Any]) -> list[str]:
    """A run as plain lines."""
    found = [f"{seen['run']} ({seen['name']})"]
    for stage, count in seen["stages"].items():
        spent = f"  {seen['seconds'][stage]:.1f} s" if stage in seen["seconds"] else ""
        found.append(f"  {stage:<11}{count['done']:>4} of {count['total']}{spent}")
    found += [f"  {job['job']:<18}{job['state']:<9}{progress(job)}".rstrip() for job in seen["jobs"]]
    return found + jobs.lines(seen)


def progress(job: dict[str, Any]) -> str:
    """How far a job is, where it runs, and why it failed, as far as that is known."""
    parts = []
    if job.get("step") is not None:
        parts.append(f"step {job['step']} of {job.get('steps', '?')}, epoch {job['epoch']}")
    if job["loss"] is not None:
        parts.append(f"loss {job['loss']:.4f}")
    if job["node"] is not None and job["state"] != "queued":
        parts.append(f"on {job['node']}")
    if job["restarts"]:
        parts.append(f"{job['restarts']} restart{'s' if job['restarts'] > 1 else ''}")
    if job["seconds_left"] and job["state"] in ("running", "stopped"):
        parts.append(f"{job['seconds_left']:.0f} s left")
    parts += [job[what] for what in ("error", "note") if job.get(what)]
    if job.get("traceback"):
        parts.append(f"see {job['traceback']}")
    return ", ".join(parts)


def watch(run: Path, console: Console, pause: Callable[[float], None] = time.sleep) -> None:
    """Show a run until nothing works on it any more, or Ctrl-C."""
    seen = look(run)
    with Live(view(seen, console.height), console=console, auto_refresh=False) as live:
        try:
            while seen["live"]:
                pause(EVERY)
                seen = look(run)
                live.update(view(seen, console.height), refresh=True)
        except KeyboardInterrupt:
            return


def view(seen: dict[str, Any], height: int = 40) -> RenderableType:
    """A run as it is drawn on a terminal of so many lines."""
    parts: list[RenderableType] = [
        Text.assemble((str(seen["name"]), "bold"), "  ", (str(seen["run"]), "dim")),
        _stages(seen),
    ]
    faults = _faults(seen)
    clusters = jobs.lines(seen)
    room = max(3, height - len(seen["stages"]) - len(faults) - len(clusters) - 7)
    if seen["jobs"]:
        parts.append(_jobs(seen["jobs"], room))
    if faults:
        parts += [
            Text("faults", style="bold red"),
            *(Text(f"  {fault}", overflow="ellipsis", no_wrap=True) for fault in faults),
        ]
    parts += [Text(line, overflow="ellipsis", no_wrap=True) for line in clusters]
    return Group(*parts)


def _stages(seen: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right", "right", "right"):
        grid.add_column(justify=justify, no_wrap=True)
    for stage, count in seen["stages"].items():
        done, total = count["done"], count["total"]
        left = _left(seen, stage)
        grid.add_row(
            Text(f"  {stage}", style="green" if done >= total else ""),
            ProgressBar(total=max(total, 1), completed=done, width=24),
            f"{done:,} of {total:,}",
            span(seen["seconds"][stage]) if stage in seen["seconds"] else "",
            Text(f"{span(left)} left" if left else "", style="dim"),
        )
    return grid


def _left(seen: dict[str, Any], stage: str) -> float | None:
    """Seconds that a stage's jobs still take, by the rates of those that run and as many side by side as there are."""
    own = [job for job in seen["jobs"] if job.get("stage") == stage]
    running = [job["seconds_left"] for job in own if job["state"] == "running" and job["seconds_left"] is not None]
    whole = [
        job["steps"] / job["rate"] for job in own if job["state"] == "running" and job.get("rate") and job.get("steps")
    ]
    if not running or not whole:
        return None
    total, begun = (
        seen["stages"].get(stage, {"total": len(own)})["total"],
        sum(job["state"] in ("running", "done") for job in own),
    )
    waiting = max(0, total - begun)
    return float(max(running) + waiting * sum(whole) / len(whole) / len(running))


def _jobs(every: list[dict[str, Any]], room: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right", "right", "right", "right", "left"):
        grid.add_column(justify=justify, no_wrap=True)
    grid.add_row(*(Text(head, style="dim") for head in ("  job", "", "step", "loss", "steps/s", "left", "node")))
    ordered = sorted(every, key=lambda job: BUSY.index(job["state"]) if job["state"] in BUSY else len(BUSY))
    for job in ordered[:room]:
        steps = f"{job['step']:,} of {job.get('steps', 0):,}" if job.get("step") is not None else ""
        running = job["state"] == "running"
        grid.add_row(
            f"  {job['job']}",
            Text(job["state"], style=COLOURS.get(job["state"], "dim")),
            steps,
            f"{job['loss']:.4f}" if job["loss"] is not None else "",
            f"{job['rate']:,.0f}" if running and job.get("rate") else "",
            span(job["seconds_left"]) if running and job["seconds_left"] else "",
            Text(job["node"] or "", style="dim"),
        )
    if len(ordered) > room:
        rest = [job["state"] for job in ordered[room:]]
        counts = ", ".join(f"{rest.count(state)} {state}" for state in dict.fromkeys(rest))
        grid.add_row(Text(f"  and {counts}", style="dim"))
    return grid


def _faults(seen: dict[str, Any]) -> list[str]:
    """What went wrong: jobs that failed or are silent, and restarts."""
    found = []
    for job in seen["jobs"]:
        if job["state"] == "failed":
            where = f"; see {job['traceback']}" if job.get("traceback") else ""
            found.append(f"{job['job']}: {job.get('error') or 'failed'}{where}")
        elif job["state"] == "silent":
            found.append(
                f"{job['job']}: no sign of life from {job['node']} for {time.time() - job.get('time', 0):.0f} s"
            )
        elif job["restarts"] and job["state"] != "done":
            found.append(f"{job['job']}: started again {job['restarts']} time{'s' if job['restarts'] > 1 else ''}")
    return found


def span(seconds: float) -> str:
    """Seconds in few characters: 8 s, 12:05, 3:04:00."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
