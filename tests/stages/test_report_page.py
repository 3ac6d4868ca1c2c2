"""The report of a project whose stages have run: trained in this process, read from the same files."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from mmray.config import Config, override
from mmray.distributed.feeding import load_features
from mmray.errors import StorageError
from mmray.results.rows import pattern_rows, results_rows
from mmray.samples.index import make_index
from mmray.stages.evaluate import evaluate
from mmray.stages.explain import explain
from mmray.stages.report import write_report
from mmray.stages.score import predictions_made_from
from mmray.stages.train import model_folder, run_of
from mmray.storage.filesystem import Storage
from mmray.tables.features import require_data
from mmray.tables.joined import read_joined
from mmray.tables.parts import write_partition
from mmray.training.checkpoint import model_fingerprint
from mmray.training.loop import fit
from mmray.training.predict import Predictor
from tests.stages.pages import Page

EVIL = "<script>alert('x')</script>"
FEATURES = ["voice", "words"]


@pytest.fixture(scope="module")
def project(shared_table_project) -> Config:
    """Trained, with baselines, and scored; one class has a name that would run in a browser."""
    config = shared_table_project("model.unimodal_heads=0.3")
    manifest = Path(str(config.samples.manifest))
    manifest.write_text(manifest.read_text().replace('"class3"', f'"{EVIL}"'))
    storage = Storage()
    make_index(config, storage)
    data = require_data(config, storage, FEATURES)
    result = train_here(config, storage, data)
    fingerprint = model_fingerprint(result.snapshot.spec, result.snapshot.weights)
    predictor = Predictor(result.model, result.snapshot.spec, fingerprint)
    folder = config.path("predictions", predictor.fingerprint)
    for at, partition in enumerate(data.index.partitions.tolist()):
        rows = read_joined(storage, data, at, ["sample_id", "split", *config.targets])
        write_partition(storage, folder, int(partition), predictor.predict(rows))
    made_from = predictions_made_from(config, data)
    storage.write_json(f"{folder}/_summary.json", {"rows": 203, "seconds": 2.5, "made_from": made_from})
    result.snapshot.save_model(model_folder(config, run_of(config, storage, data)))
    evaluate(config)
    explain(config, rows=40, samples=2)
    return config


def train_here(config: Config, storage: Storage, data):
    rows, run = load_features(config, storage, FEATURES), run_of(config, storage, data)
    result = fit(config.model, config.train, rows, FEATURES, config.targets)
    alone = {name: fit(config.model, config.train, rows, [name], config.targets).test for name in FEATURES}
    results = {
        "model": model_folder(config, run),
        "model_fingerprint": model_fingerprint(result.snapshot.spec, result.snapshot.weights),
        "features": FEATURES,
        "history": result.history,
        "best_epoch": int(result.history[-1]["best_epoch"]),
        "monitor": config.train.monitor,
        "workers": 1,
        "seconds": 3.5,
        "warnings": [f"an odd thing of {EVIL}"],
        "run": run,
        "rows": results_rows(result.test, alone, FEATURES),
        "patterns": pattern_rows(result.test),
    }
    storage.write_json(f"{model_folder(config, run)}/results.json", results)
    return result


@pytest.fixture(scope="module")
def html(project) -> str:
    return Path(write_report(project.output, Storage(), project)).read_text("utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def texts(table: Any) -> list[list[str]]:
    return [[" ".join("".join(cell).split()) for cell in row] for row in table]


def test_every_section_is_there_and_linked(page):
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    ids = {attributes.get("id") for tag, attributes in page.elements if tag == "section"}
    assert {f"#{name}" for name in ("data", "training", "results", "predictions")} <= links
    assert {link[1:] for link in links} <= ids


def test_warnings_come_before_everything_else(page):
    order = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert order[0] == "warnings"
    assert "an odd thing of" in page.sections["warnings"]


def test_samples_are_counted(page, project):
    splits = {row[0]: row[1] for row in texts(page.tables["data"][0])[1:]}
    known = require_data(project, Storage(), []).index.small(Storage(), ["split"])["split"]
    for split in ("train", "val", "test"):
        assert splits[split] == str(pc.sum(pc.equal(known, split)).as_py())  # pyright: ignore[reportAttributeAccessIssue]


def test_results_have_a_row_a_model_and_every_metric_under_a_fold(page):
    main, every, *_ = map(texts, page.tables["results"])
    assert main[1][0] == "majority"
    assert main[-1][0] == "fused"
    names = [row[0] for row in every[1:]]
    assert {"emotion/accuracy", "emotion/ece", "emotion/nll", "score/mae"} <= set(names)
    assert every[0][1:] == [row[0] for row in main[1:]]


def test_figures_are_there_with_calibration(page):
    assert {"training", "results", "predictions"} <= page.svg_texts.keys()
    assert any(text.startswith("emotion: calibration, error 0.") for text in page.svg_texts["predictions"])


def test_weak_subgroups_and_the_most_wrong_are_shown(page, project):
    tables = [texts(table) for table in page.tables["evaluation"]]
    by_present = next(table for table in tables if table[0][0] == "present")
    assert [row[0] for row in by_present[1:]] == ["voice + words", "words"]
    wrong = next(table for table in tables if table[0][0] == "sample")
    assert 1 < len(wrong) <= 9
    assert any("noise" in row[-1] for row in wrong[1:]), "the samples' texts"
    quiet = override(project, {"report.texts": False, "report.thumbnails": 0})
    silent = Page(Path(write_report(project.output, Storage(), quiet)).read_text("utf-8"))
    told = list(map(texts, silent.tables["evaluation"]))
    assert not any("noise" in cell for table in told for row in table for cell in row)
    write_report(project.output, Storage(), project)


def test_modalities_and_robustness_are_shown(page):
    table, *_ = map(texts, page.tables["explanation"])
    assert [row[0] for row in table] == ["modality", "voice", "words"]
    assert any("mean |Shapley value|" in text for text in page.svg_texts["explanation"])
    assert "a tree of depth 3" in page.sections["explanation"]


def test_nothing_given_runs_and_nothing_is_fetched(html, page):
    assert not any(tag in ("link", "img", "iframe") for tag, _ in page.elements)
    assert [tag for tag, _ in page.elements].count("script") == 1, "the one that sorts tables"
    assert EVIL not in html
    outside = re.findall(r'(?:src|href)="(?!#)([^"]*)"', html)
    assert [link for link in outside if not link.startswith("data:")] == []
    assert len(html) < 5e6


def test_the_same_inputs_give_the_same_page(project, html):
    def undated(text: str) -> str:
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text)

    again = Path(write_report(project.output, Storage(), project)).read_text("utf-8")
    assert undated(again) == undated(html)


def test_stages_that_have_not_run_are_named(project, tmp_path):
    untouched = override(project, {"output": f"{tmp_path}/none"})
    html = Path(write_report(untouched.output, Storage(), untouched)).read_text("utf-8")
    for stage in ("extract", "train", "score"):
        assert f"mmray {stage}" in html


def test_a_report_that_cannot_be_written(project, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_report(f"{tmp_path}/file", Storage(), project)


# ------------------------------------------------------------------------------------ a real browser


@pytest.mark.parametrize("width", [500, 1280])
def test_a_browser_shows_it_within_the_page_and_without_a_word_of_complaint(project, html, tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine to draw the report with")
    # Chromium tells widths only to a script: one is added to a copy of the page.
    probe = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script>"
    copy = tmp_path / "report.html"
    click = (
        "<script>const head = [...document.querySelectorAll('#evaluation th.sorts')].find("
        "each => each.innerText == 'off by'); head.click(); head.click();"
        "document.body.dataset.sorted = [...head.closest('table').rows].slice(1)"
        ".map(row => row.cells[3].innerText).join(' ')</script>"
    )
    copy.write_text(html.replace("</body>", f"{probe}{click}</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--window-size={width},900"),
            *(f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{copy}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert found, done.stdout[:300]
    assert int(found[1]) <= int(found[2])
    assert "CONSOLE" not in done.stderr
    ascending = re.search(r'data-sorted="([^"]*)"', done.stdout)
    assert ascending, "the script that sorts ran"
    numbers = [float(text) for text in ascending[1].split()]
    assert numbers == sorted(numbers)
    assert len(numbers) > 2
