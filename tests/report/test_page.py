"""The page is one file, the same bytes each time, safe against names, and complete with what there is."""

import json
import re
from html.parser import HTMLParser

import pytest

from kdscale.errors import UserError
from kdscale.report import figures, summary
from kdscale.report.page import render
from kdscale.report.results import checked

TEACHERS = [60, 64, 56]


class Elements(HTMLParser):
    """Collects start tags, and notes what is closed in the wrong order."""

    void = frozenset({"meta", "br", "hr", "img", "link"})

    def __init__(self):
        super().__init__()
        self.found, self.open, self.misplaced = [], [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misplaced.append(tag)


def parsed(text):
    elements = Elements()
    elements.feed(text)
    return elements


@pytest.fixture
def page(results, run, loss_rows):
    def make(tree=None, rows=None):
        path = render(run(tree or results(TEACHERS, control=[60, 62, 61]), rows))
        return path.read_text(encoding="utf-8")

    return make


def test_the_same_run_gives_the_same_bytes(results, run, loss_rows):
    folder = run(results(TEACHERS, control=[60, 62]), loss_rows(3))
    first = render(folder).read_bytes()
    assert render(folder).read_bytes() == first
    assert render(folder) == folder / "report" / "index.html"
    assert [path.name for path in (folder / "report").iterdir()] == ["index.html"]


def test_stages_have_their_time_and_share(page):
    text = page()
    assert '<tr><th scope="row">teachers</th><td>1 min 3 s</td><td>43%</td></tr>' in text
    assert '<tr><th scope="row">together</th><td>2 min 26 s</td><td>100%</td></tr>' in text


def test_the_store_and_its_fidelity_are_there(results, run):
    tree = results(TEACHERS)
    assert "<h2>Logit store</h2>" not in render(run(tree)).read_text()
    tree["store"] = {
        **{"codec": {"name": "topk", "k": 16}, "rows": 24000, "bytes": 3_000_000, "bytes_per_row": 125.0},
        **{"members": 3, "shards": 8, "views": 1},
        "fidelity": {
            "rows": 256,
            "temperature": 4.0,
            "kl": 0.00321,
            "agreement": 0.996,
            "ece_gap": 0.001,
            "angle": 2.14,
        },
    }
    text = render(run(tree)).read_text()
    for words in (
        "topk, k 16",
        "3 MB, 125.0 bytes a row",
        "24,000: 3 members, 8 shards, 1 view<",
        "0.00321",
        "99.60%",
        "+0.10 %",
        "2.14°",
    ):
        assert words in text


def test_it_needs_no_network_and_no_script(page, loss_rows):
    text = page(rows=loss_rows(3))
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    elements = parsed(text)
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in elements.found}
    assert all(href.startswith("#") for _, attrs in elements.found if (href := attrs.get("href")))


def test_it_is_well_formed_with_unique_ids_that_resolve(page, loss_rows):
    text = page(rows=loss_rows(3))
    elements = parsed(text)
    assert not elements.misplaced
    assert not elements.open
    ids = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) == set(ids)


def test_numbers_figures_and_recipe_appear(page, loss_rows):
    text = page(rows=loss_rows(3))
    for value in ("digits-example", "25% fewer errors", "95.40 ± 0.10", "300,000", "1.2 MB", "beef" * 16, "f00d" * 16):
        assert value in text
    assert "temperature: 4.0" in text
    for title in (
        "Accuracy against ensemble size",
        "NLL against ensemble size",
        "Errors of every model",
        "Time by stage",
        "training loss",
        "losses",
        "Calibration of the control",
        "confusions",
        "Most confused pairs",
    ):
        assert title in text
    pictures = [attrs for tag, attrs in parsed(text).found if tag == "svg"]
    assert len(pictures) == text.count("<figcaption>") - 1
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)


def test_names_are_escaped(page, results):
    tree = results(TEACHERS)
    tree["recipe"]["name"] = "<b>bold</b>"
    tree["dataset"]["classes"] = [f"<b>{index}</b> $x^2$ & #010101" for index in range(10)]
    tree["models"]["student"]["name"] = "<b>net</b>"
    tree["seconds"]["<b>stage</b>"] = 1.0
    text = page(tree)
    assert "<b>" not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert not parsed(text).misplaced


def test_without_a_control(page, results, loss_rows):
    rows = [row for row in loss_rows(3) if not row["job"].startswith("control")]
    text = page(results(TEACHERS), rows)
    assert "control" not in text.split("</style>")[1]


def test_without_metrics_the_loss_figures_are_left_out(page):
    text = page()
    assert "training loss" not in text
    assert "Errors of every model" in text


def test_torn_and_unknown_lines_are_passed_over(results, run, loss_rows):
    folder = run(results(TEACHERS), loss_rows(3))
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(
            '[1]\n{"stage": "data"}\n{"stage": "teachers", "job": "seed-0", "step": 1, "epoch": 1, "loss": NaN}\n'
        )
        file.write('{"stage": "teachers", "jo')
    text = render(folder).read_text(encoding="utf-8")
    assert "1 line of metrics.jsonl could not be read" in text
    assert "training loss" in text


def test_many_teachers_and_many_classes(page, results, loss_rows):
    text = page(results(list(range(50, 90)), classes=60), loss_rows(40))
    assert "40 teachers" in text
    assert "confusions" not in text
    assert "Most confused pairs" in text
    assert len(text) < 600_000


def test_bare_results_make_a_page(page, results):
    tree = results([50], ensemble=50, student=[50])
    split = tree["splits"]["test"]
    for part in ("by_size", "reliability", "confusion"):
        del split[part]
    for part in ("seconds", "models", "recipe"):
        tree[part] = {}
    text = page(tree)
    assert "Errors of every model" in text
    assert "ensemble size" not in text


def test_other_splits_have_their_table(page, results):
    tree = results(TEACHERS)
    tree["splits"] = {"validation": tree["splits"]["test"], "test": tree["splits"]["test"]}
    text = page(tree)
    assert text.index("Results on the test split") < text.index("Results on the validation split")


def test_without_results_it_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="run `kdscale evaluate` first"):
        render(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"splits": 3}'])
def test_garbled_results_are_refused(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(UserError, match=r"results\.json.*run `kdscale evaluate` again"):
        render(tmp_path)


def test_garbled_metrics_are_refused(results, run):
    folder = run(results(TEACHERS))
    (folder / "metrics.jsonl").write_bytes(b"\x00\x01binary")
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        render(folder)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (12.4, "12 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds, text):
    assert figures.duration(seconds) == text


def test_joint_control_fusion_and_scaling_are_shown_where_they_were_measured(results, run):
    tree = results(TEACHERS, control=[60, 62, 61])
    split = tree["splits"]["test"]
    split["joint"] = {**split["control"], "networks": 3}
    split["student_ensemble"] = {**split["ensemble"], "members": 3}
    split["reliability"]["joint"] = split["reliability"]["ensemble"]
    fitted = {"n": 500, "nll_before": 0.2, "nll": 0.1, "error": 0.01}
    split["ensemble"]["scaled"] = {"temperature": 1.25, "nll": 9.0, "brier": 0.1, "ece": 0.01, "fitted": fitted}
    split["ensemble"]["divergence"], split["joint"]["runs"][0]["divergence"] = 0.0, 0.2
    split["diversity"] = {"disagreement": 0.05, "pairs": [[0, 0.04, 0.05], [0.04, 0, 0.06], [0.05, 0.06, 0]]}
    for size in split["by_size"]:
        size |= {"brier": size["nll"], "ece": {**size["nll"], "std": 0.01}}
    folder = run(tree)
    plain = render(folder).read_text(encoding="utf-8")
    assert "Fusion rules" not in plain
    vote = {"rule": "borda", "errors": 12, "accuracy": 0.988, "agreement": 0.999, "n": 1000}
    compared = {"fingerprint": tree["fingerprint"], "rules": [vote], "left_out": {"stacked_features": "no layer"}}
    (folder / "fusion.json").write_text(json.dumps(compared))
    text = render(folder).read_text(encoding="utf-8")
    for words in (
        "3 jointly",
        "3 fused",
        "Calibration of the joint control",
        "Brier score against ensemble size",
        "Calibration error against ensemble size",
        "Fidelity to the ensemble",
        "Two members disagree on 5.00% of the samples.",
        "no stacked_features: no layer",
        "1 gained more there than two standard errors, and 0 made the NLL on this split smaller",
    ):
        assert words in text
    elements = parsed(text)
    assert not elements.misplaced
    (folder / "fusion.json").write_text(json.dumps({**compared, "fingerprint": "of other results"}))
    assert render(folder).read_text(encoding="utf-8") == plain
    (folder / "fusion.json").write_text("{")
    with pytest.raises(UserError, match=r"fusion\.json.*--fusion all` again"):
        render(folder)


def test_the_costs_have_latency_and_throughput_and_their_ratio(results, run) -> None:
    tree = results(TEACHERS)
    assert "samples a second" not in render(run(tree)).read_text()
    tree["speed"] = {
        "device": "CPU",
        "threads": 1,
        "batch": 256,
        "models": {
            "ensemble": {"latency_1": 3.0, "latency_64": 8.0, "throughput": 10_000.0},
            "student": {"latency_1": 1.0, "latency_64": 2.0, "throughput": 45_000.0},
        },
    }
    page = render(run(tree)).read_text().replace("\N{MULTIPLICATION SIGN}", "x")
    (ratios,) = re.findall(r"ensemble / student</th>(.*?)</tr>", page)
    assert re.findall(r"<td>(.*?)</td>", ratios) == ["3x", "3x", "3x", "4x", "0.22x"]
    assert "all models in turn; throughput in batches of 256" in page
    caption = summary.caption(checked(tree)).replace("\N{MULTIPLICATION SIGN}", "x")
    assert "one sample takes the ensemble 3 ms and the student 1 (3x less), 64 take 8 and 2 (4x)" in caption
    assert "10,000 and 45,000 samples a second (4.5x)" in caption
