import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mmray.config import Config, load_config, override
from mmray.errors import StorageError
from mmray.samples.index import make_index
from mmray.stages.extract import extraction_summary, finish, summary_uri
from mmray.stages.report import write_report
from mmray.stages.train import model_folder, run_of
from mmray.stages.tune import search_folder
from mmray.storage.filesystem import Storage
from mmray.tables.accounting import Tally, notes_of
from mmray.tables.features import require_data, tables_to_make
from mmray.tables.identity import media_digest, media_keys
from mmray.tables.parts import write_partition
from mmray.tables.schemas import (
    FeatureShape,
    feature_schema,
    prediction_schema,
    vectors_to_column,
)
from mmray.targets import metadata_of
from tests.stages.pages import Page

CLASSES = ["happy", "neutral", "sad"]
ROWS = 240
EVIL = "<script>alert('x')</script>"


def make_config(folder: Path) -> Config:
    path = folder / "config.yaml"
    path.write_text(f"""
name: emotions
output: {folder}/out
samples: {{manifest: clips.jsonl}}
targets: {{emotion: {{kind: classification}}, strength: {{kind: regression}}}}
features:
  face: {{kind: frames}}
  voice: {{kind: mel}}
train: {{monitor: emotion/accuracy}}
""")
    return load_config(path)


@pytest.fixture
def config(tmp_path) -> Config:
    """A project of which nothing has run yet."""
    return make_config(tmp_path)


@pytest.fixture
def everything(config) -> Config:
    """A project of which every stage has run."""
    make_everything(config)
    return config


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> "Page":
    """The report of the same."""
    config = make_config(tmp_path_factory.mktemp("report"))
    make_everything(config)
    return page_of(config)


# ------------------------------------------------------------------------------------ files made by hand


def samples() -> list[dict]:
    """Rows with every split, an unknown label and number, failures of two kinds, and absent sound."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(ROWS):
        split = "train" if i < 150 else "val" if i < 180 else "test"
        errors = []
        if i % 40 == 0:
            errors.append(("face", "corrupt", f"bad packet in {EVIL}" if i == 0 else f"at {i} s"))
        if i % 60 == 0:
            errors.append(("voice", "no_audio_stream", ""))
        if i % 7 == 0:
            errors.append(("voice", "absent", ""))
        rows.append(
            {
                "sample_id": EVIL if i == 0 else f"clip-{i:03d}",
                "split": split,
                "emotion": None if i == 1 else CLASSES[int(rng.integers(3))],
                "strength": None if i == 2 else float(rng.normal()),
                "errors": [
                    {"stage": "decode", "modality": m, "reason": r, "detail": d, "attempts": 1}
                    for m, r, d in errors
                ],
            }
        )
    return rows


def make_features(config: Config, storage: Storage, rows: list[dict]) -> None:
    """Manifest, index and both feature tables, and what the extraction of them told."""
    given = [{key: value for key, value in row.items() if key != "errors"} for row in rows]
    media = [{**row, "video": f"{number}.mp4"} for number, row in enumerate(given)]
    Path(str(config.samples.manifest)).write_text("".join(json.dumps(row) + "\n" for row in media))
    index, tally = make_index(config, storage), Tally(["face", "voice"])
    errors = {row["sample_id"]: row["errors"] for row in rows}
    tables = tables_to_make(config, ["face", "voice"], "cpu", index.split_digest)
    for partition in index.partitions.tolist():
        part, notes = index.read(storage, partition), {}
        for name, table in tables.items():
            made = feature_part(name, FeatureShape(64), part, table.source, errors)
            digest = media_digest(made["sample_id"], made["media_key"].to_pylist())
            more = {**notes_of(made, name), "media": digest}
            notes[name] = write_partition(storage, table.folder, partition, made, more)
        tally.add_notes(partition, part.num_rows, notes)
    tally.rows_now = len(rows)
    placed = {
        "stage_seconds": {"fetch": 1.0, "decode": 15.5, "encode": 6.5, "write": 0.25},
        "actors": 2,
        "placement": "fused",
    }
    for table in tables.values():
        finish(storage, index, table, tally)
    summary = extraction_summary(config, index, tables, tally, 12.3, placed)
    storage.write_json(summary_uri(config, summary["features"]), summary)


def feature_part(name: str, shape: FeatureShape, samples: pa.Table, source: str, errors: dict) -> pa.Table:
    """Zeros, or the error there is."""
    ids = samples["sample_id"].to_pylist()
    found = [next((e for e in errors[i] if e["modality"] == name), None) for i in ids]
    vectors = [None if error else np.zeros((8, 64), np.float32) for error in found]
    columns = {
        "sample_id": ids,
        "media_key": media_keys(samples, [source]),
        name: vectors_to_column(vectors, shape),
        f"{name}_length": [0 if error else 8 for error in found],
        f"{name}_start_s": [None if error else 0.0 for error in found],
        f"{name}_step_s": [None if error else 0.1 for error in found],
        "error": [error and {key: error[key] for key in error if key != "modality"} for error in found],
    }
    return pa.table(columns, schema=feature_schema(name, shape))


def results_file(config: Config) -> str:
    """Where the results of the config's training are."""
    storage = Storage()
    data = require_data(config, storage)
    return f"{model_folder(config, run_of(config, storage, data))}/results.json"


def extraction_file(config: Config) -> str:
    """Where the summary of its extraction is."""
    (path,) = Path(config.path("features")).glob("_extract-*.json")
    return str(path)


def row(model: str, features: list[str], accuracy: float, interval: list | None) -> dict:
    metrics = {
        "emotion/accuracy": accuracy,
        "emotion/f1_macro": accuracy - 0.01,
        "strength/correlation": None,
    }
    return {
        "model": model,
        "features": features,
        "n": 60,
        "metrics": metrics,
        "interval": {"emotion/accuracy": interval} if interval else {},
    }


def make_training(config: Config, storage: Storage) -> None:
    history = [
        {
            "epoch": e,
            "train_loss": 1.2 * 0.8**e,
            "val_loss": 1.2 * 0.85**e + (0.01 * (e - 7) ** 2 if e > 7 else 0),
            "val/emotion/accuracy": 0.4 + 0.07 * min(e, 7) - (0.01 * (e - 7) if e > 7 else 0),
            "seconds": 0.5,
        }
        for e in range(1, 13)
    ]
    results = {
        "model_fingerprint": "0456model",
        "features": ["face", "voice"],
        "history": history,
        "best_epoch": 7,
        "monitor": "emotion/accuracy",
        "seconds": 31.5,
        "workers": 2,
        "rows": [
            row("fused", ["face", "voice"], 0.9333, [0.8667, 0.9833]),
            row("voice only", ["voice"], 0.8111, [0.7, 0.9]),
            row("face only", ["face"], 0.6222, [0.5, 0.75]),
            row("majority", [], 0.3444, None),
        ],
        "patterns": [
            {"present": ["face", "voice"], "n": 50, "metrics": {"emotion/accuracy": 0.94}},
            {"present": [], "n": 10, "metrics": {"emotion/accuracy": None}},
        ],
    }
    storage.write_json(results_file(config), results)


def predicted(rows: list[dict]) -> list[str | None]:
    """Right but for every fifth; nothing for every thirtieth."""
    return [
        None if i % 30 == 0 else CLASSES[i % 3] if i % 5 == 0 else row["emotion"]
        for i, row in enumerate(rows)
    ]


def fitted_schema(config: Config, rows: list[dict]) -> pa.Schema:
    """The schema of predictions by a model whose targets were fitted on these rows."""
    ids, every = np.array([row["sample_id"] for row in rows], dtype=object), np.ones(len(rows), bool)
    fitted = {}
    for name, target in config.targets.items():
        values = np.empty(len(rows), dtype=object)
        values[:] = [row[name] for row in rows]
        kind = float if pa.types.is_floating(target.arrow_type) else object
        fitted[name] = target.fit(name, values.astype(kind), ids, every)
    return prediction_schema(config.targets).with_metadata(metadata_of(fitted))


def make_predictions(config: Config, storage: Storage, rows: list[dict]) -> None:
    folder = config.path("predictions", "0456model")
    table = [
        {
            **{name: row[name] for name in ("sample_id", "split", "emotion", "strength")},
            "emotion_predicted": label,
            "strength_predicted": None if label is None else (row["strength"] or 0.0) * 0.8,
            "present": ["face"],
            "model": "0456model",
        }
        for row, label in zip(rows, predicted(rows))
    ]
    schema = fitted_schema(config, rows)
    for partition, start in enumerate(range(0, len(table), 64)):
        part = pa.Table.from_pylist(table[start : start + 64], schema)
        write_partition(storage, folder, partition, part)
    storage.write_json(f"{folder}/_summary.json", {"rows": ROWS, "seconds": 2.5})


def make_trials(config: Config, storage: Storage) -> None:
    table = f"trial,train.learning_rate,best\r\n0,0.001,0.81\r\n1,{EVIL},0.93\r\n"
    folder = search_folder(config, storage, require_data(config, storage))
    storage.write(f"{folder}/trials.csv", table.encode())


def make_everything(config: Config) -> None:
    rows, storage = samples(), Storage()
    make_features(config, storage, rows)
    make_training(config, storage)
    make_predictions(config, storage, rows)
    make_trials(config, storage)


# ------------------------------------------------------------------------------------ reading the page


def page_of(config: Config) -> Page:
    storage = Storage(config.storage)
    html = storage.read(write_report(config.output, storage, config)).decode()
    page = Page(html)
    assert page.open == []
    return page


def words(text: str) -> str:
    return " ".join(text.split())


# ------------------------------------------------------------------------------------ content


def test_the_header_says_what_and_when(page):
    from mmray import __version__

    header = words(page.sections["header"])
    assert "emotions" in header
    assert f"mmray {__version__}" in header
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", header)
    assert "240 samples" in header
    assert "0.933 emotion/accuracy, fused" in header


def test_samples_are_counted(page):
    rows = samples()
    splits, classes, numbers = page.tables["data"][:3]
    assert [line[:2] for line in splits[1:]] == [["train", "150"], ["val", "30"], ["test", "60"]]
    count = Counter((row["emotion"] or "(unknown)", row["split"]) for row in rows)
    assert classes[0][:5] == ["class", "train", "val", "test", "all"]
    for label, *numbers_of in (line[:5] for line in classes[1:]):
        expected = [count[label, split] for split in ("train", "val", "test")]
        assert [int(n) for n in numbers_of] == [*expected, sum(expected)]
    assert {line[0] for line in classes[1:]} == {*CLASSES, "(unknown)"}
    for line in numbers[1:]:
        known = [row["strength"] for row in rows if row["split"] == line[0] and row["strength"] is not None]
        expected = [np.mean(known), np.std(known), np.min(known), np.max(known)]
        assert line[1:] == [str(len(known)), *(f"{value:.3f}" for value in expected)]


def test_failures_by_reason_with_examples(page):
    rows = samples()
    failures = page.tables["data"][3]
    assert [line[:3] for line in failures[1:]] == [
        ["face", "corrupt", "6"],
        ["voice", "no_audio_stream", "4"],
    ]
    corrupt = [row for row in rows if any(e["reason"] == "corrupt" for e in row["errors"])]
    shown = failures[1][3]
    assert [row["sample_id"] in shown for row in corrupt] == [True] * 5 + [False]
    assert f"bad packet in {EVIL}" in shown
    assert "at 160 s" in shown
    failed = sum(any(e["reason"] != "absent" for e in row["errors"]) for row in rows)
    assert f"{failed} of 240 samples have a failed modality" in words(page.sections["data"])


def test_extraction(page):
    text = words(page.sections["extraction"])
    assert "240 samples in 4 files, 12.3 s, 19.5 samples/s; 2 actors, fused" in text
    assert re.search(r"face-[0-9a-f]{16} voice-[0-9a-f]{16}", text)
    (stages,) = page.tables["extraction"]
    assert [line[:2] for line in stages[1:]] == [
        ["fetch", "1.0"],
        ["decode", "15.5"],
        ["encode", "6.5"],
        ["write", "0.2"],
    ]


def test_training_curves(page):
    text = words(page.sections["training"])
    assert "12 epochs, the best 7 by emotion/accuracy on the validation split; 2 workers, 31.5 s" in text
    assert "0456model" in text
    labels = page.svg_texts["training"]
    assert {"loss", "emotion/accuracy", "train", "validation", "epoch", "best epoch, 7"} <= set(labels)


def test_results(page):
    results = page.tables["results"][0]
    lines = [[words(cell) for cell in line] for line in results]
    assert lines[0] == [
        *("model", "samples"),
        *("emotion/accuracy", "emotion/f1_macro", "strength/correlation"),
    ]
    assert [line[0] for line in lines[1:]] == ["majority", "voice only", "face only", "fused"]
    assert lines[1][1:] == ["60", "0.344", "0.334", "–"]
    assert lines[4][1:] == ["60", "0.933[0.867, 0.983]", "0.923", "–"]
    assert {"majority", "voice only", "face only", "fused", "emotion/accuracy"} <= set(
        page.svg_texts["results"]
    )


def test_results_by_what_a_sample_has(page, config):
    rows = page.tables["results"][2]
    assert rows == [
        ["features", "samples", "emotion/accuracy"],
        ["face + voice", "50", "0.940"],
        ["none", "10", "–"],
    ]
    make_everything(config)
    path = results_file(config)
    results = Storage().read_json(path)
    Storage().write_json(path, {**results, "patterns": results["patterns"][:1]})
    assert len(page_of(config).tables["results"]) == 2


def test_sets_of_labels_and_ordered_levels(config):
    targets = (
        "{tags: {kind: multilabel}, mood: {kind: ordinal, classes: [low, mid, high]}, "
        "rating: {kind: ordinal, scale: sentiment}}"
    )
    config = override(config, {"targets": yaml.safe_load(targets), "train.monitor": "loss"})
    truths = [(["b", "a"], "low", 1.5), ([], "high", -3.0), (None, None, None), (["b"], "high", 0.0)]
    guesses = [(["b"], "low", 1.0), (["a"], "mid", -2.5), (["b"], "low", 0.0), (["b"], "high", 0.5)]
    rows = [
        {"sample_id": str(i), "split": "test", "errors": []} | dict(zip(config.targets, truth))
        for i, truth in enumerate(truths)
    ]
    make_features(config, Storage(), rows)
    make_training(config, Storage())
    predictions = [
        {**{name: row[name] for name in row if name != "errors"}, "present": ["face"], "model": "0456model"}
        | {f"{name}_predicted": value for name, value in zip(config.targets, guess)}
        for row, guess in zip(rows, guesses)
    ]
    table = pa.Table.from_pylist(predictions, fitted_schema(config, rows))
    write_partition(Storage(), config.path("predictions/0456model"), 0, table)
    Storage().write_json(config.path("predictions/0456model/_summary.json"), {"rows": 4, "seconds": 1.0})
    page = page_of(config)
    counts = {line[0]: line[2] for table in page.tables["data"][1:3] for line in table[1:]}
    assert counts == {"(none)": "1", "(unknown)": "1", "a": "1", "b": "2", "high": "2", "low": "1"}
    assert page.tables["data"][3][1][1] == "3"  # known ratings
    texts = page.svg_texts["predictions"]
    assert {"precision", "recall", "a", "b"} <= set(texts)
    order = [text for text in texts if text in ("low", "mid", "high")]
    assert order == ["low", "mid", "high"] * 2


def test_confusion_matrix_of_the_test_split(page):
    rows = samples()
    pairs = Counter(
        (row["emotion"], label)
        for row, label in zip(rows, predicted(rows))
        if row["split"] == "test" and None not in (row["emotion"], label)
    )
    texts = page.svg_texts["predictions"]
    emotion = texts[: texts.index("emotion")]
    assert [emotion.count(label) for label in CLASSES] == [2, 2, 2]
    row_by_row = [pairs[truth, label] for truth in CLASSES for label in CLASSES]
    assert [int(text) for text in emotion if text.isdigit()] == [n for n in row_by_row if n]
    text = words(page.sections["predictions"])
    assert "240 samples scored in 2.5 s" in text
    assert f"{pairs.total()} samples with a known emotion" in text


def test_trials(page):
    (trials,) = page.tables["tune"]
    assert trials == [["trial", "train.learning_rate", "best"], ["0", "0.001", "0.81"], ["1", EVIL, "0.93"]]


def test_the_config_is_there(page):
    assert "monitor: emotion/accuracy" in page.sections["config"]


def test_the_rate_is_of_the_rows_of_that_run(everything):
    storage = Storage()
    path = extraction_file(everything)
    summary = storage.read_json(path)
    storage.write_json(path, {**summary, "rows_this_run": 123})
    assert "10.0 samples/s" in words(page_of(everything).sections["extraction"])
    storage.write_json(path, {**summary, "rows_this_run": 0, "seconds": 0.0})
    assert "samples/s" not in page_of(everything).sections["extraction"]


def test_everything_given_is_escaped_and_nothing_is_fetched(everything):
    storage = Storage()
    labelled = override(everything, {"targets.emotion.classes": [*CLASSES, "<b>&amp;$5^$</b>"], "name": "a"})
    make_everything(labelled)
    page = page_of(labelled)
    assert "<b>&amp;$5^$</b>" in page.svg_texts["predictions"]
    assert [tag for tag, _ in page.elements].count("script") == 1, "the one that sorts tables"
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "image")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#")
    html = storage.read(everything.path("report.html")).decode()
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_inputs_give_the_same_page(everything):
    storage = Storage()
    pages = [storage.read(write_report(everything.output, storage, everything)).decode() for _ in range(2)]
    first, second = (re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page) for page in pages)
    assert first == second


# ------------------------------------------------------------------------------------ not everything is there


def test_stages_that_have_not_run_are_named(config):
    page = page_of(config)
    for section, text in {
        "data": "No features yet: run mmray extract.",
        "extraction": "Not finished yet: run mmray extract.",
        "training": "Not trained yet: run mmray train.",
        "results": "Not trained yet: run mmray train.",
        "predictions": "Not scored yet: run mmray score.",
    }.items():
        assert text in words(page.sections[section])
    assert "tune" not in page.sections


def test_predictions_of_another_model_are_not_shown(everything):
    storage = Storage()
    results = storage.read_json(results_file(everything))
    storage.write_json(results_file(everything), {**results, "model_fingerprint": "newer"})
    assert "Not scored yet" in page_of(everything).sections["predictions"]


def test_an_extraction_still_under_way(config):
    storage = Storage()
    make_features(config, storage, samples())
    Path(extraction_file(config)).unlink()
    page = page_of(config)
    assert "240 samples" in words(page.sections["header"])
    assert "Not finished yet" in page.sections["extraction"]


def test_no_split_no_failure_one_class(config):
    storage = Storage()
    rows = [{**row, "split": None, "errors": [], "emotion": "sad"} for row in samples()]
    make_features(config, storage, rows)
    page = page_of(config)
    assert page.tables["data"][0][1][:2] == ["none", "240"]
    assert "No modality of any sample failed." in page.sections["data"]


def test_undefined_metrics_and_intervals(everything):
    storage = Storage()
    path = results_file(everything)
    results = storage.read_json(path)
    results["rows"] = [row("fused", ["face"], float("nan"), [None, None])]
    for entry in results["history"]:
        entry["val_loss"] = None
    Path(path).write_text(json.dumps(results))
    lines = page_of(everything).tables["results"][0]
    assert words(lines[1][2]) == "–"


def test_on_s3(config, s3):
    there = override(config, {"output": s3.uri("report-run")})
    storage = Storage()
    make_features(there, storage, samples())
    make_training(there, storage)
    assert write_report(there.output, storage, there) == s3.uri("report-run", "report.html")
    assert "240 samples" in words(page_of(there).sections["header"])


def test_vectors_are_not_read(everything):
    """A table whose vectors are overwritten with noise on disk still gives its report."""
    for path in Path(everything.path("features")).glob("face-*/part-*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        data = bytearray(path.read_bytes())
        for group in range(metadata.num_row_groups):
            for i in range(metadata.num_columns):
                column = metadata.row_group(group).column(i)
                if column.path_in_schema.startswith("face."):
                    start = column.dictionary_page_offset or column.data_page_offset
                    data[start : start + column.total_compressed_size] = (
                        b"\xff" * column.total_compressed_size
                    )
        path.write_bytes(data)
        with pytest.raises(OSError, match=r"\w"):
            pq.read_table(path)
    assert "240 samples" in words(page_of(everything).sections["header"])


def test_a_report_that_cannot_be_written(everything):
    Path(everything.path("report.html")).mkdir()
    with pytest.raises(StorageError, match=r"report\.html: is a directory"):
        write_report(everything.output, Storage(), everything)


def test_a_browser_draws_it(everything, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine to draw the report with")
    report = write_report(everything.output, Storage(), everything)
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{report}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    drawn = Page(re.sub(r"(?s)^.*?<!doctype html>", "", done.stdout, flags=re.IGNORECASE))
    assert set(drawn.svg_texts) == {"training", "results", "predictions"}
    assert [words(line[0]) for line in drawn.tables["results"][0][1:]][-1] == "fused"
