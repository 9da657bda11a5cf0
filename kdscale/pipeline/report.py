"""Stage 6, report: RUN/report/index.html from the results."""

from kdscale.files import digest, read_json, write_text
from kdscale.pipeline import evaluate
from kdscale.pipeline.run import MARK, Run
from kdscale.tracking.progress import Bars

PAGE = "report/index.html"


def fingerprint(run: Run) -> str:
    results = read_json(run.folder / evaluate.RESULTS)
    return digest({"stage": "report", "results": results})


def missing(run: Run) -> list[str]:
    made = run.claimed("report") == fingerprint(run) and (run.folder / PAGE).exists()
    return [] if made else [PAGE]


def work(run: Run, bars: Bars) -> None:
    from kdscale.report.page import render

    render(run.folder)
    write_text(run.folder / "report" / MARK, fingerprint(run))
