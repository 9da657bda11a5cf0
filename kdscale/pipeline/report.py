"""Stage 6, report: RUN/report/index.html from the results."""

from kdscale.files import digest, read_json, write_text
from kdscale.pipeline import comparing, evaluate
from kdscale.pipeline.run import MARK, Run
from kdscale.tracking.progress import Bars

PAGE = "report/index.html"
VERSION = 4
"""Of what is drawn: a page of another version is made again."""


def fingerprint(run: Run) -> str:
    results = read_json(run.folder / evaluate.RESULTS)
    fusion = comparing.saved(run)
    prices = [run.recipe.cluster.cpu_hour, run.recipe.cluster.gpu_hour]
    return digest({"stage": "report", "version": VERSION, "results": results, "fusion": fusion, "prices": prices})


def missing(run: Run) -> list[str]:
    made = run.claimed("report") == fingerprint(run) and (run.folder / PAGE).exists()
    return [] if made else [PAGE]


def work(run: Run, bars: Bars) -> None:
    from kdscale.report.page import render

    render(run.folder)
    write_text(run.folder / "report" / MARK, fingerprint(run))
