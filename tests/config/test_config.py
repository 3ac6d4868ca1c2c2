import inspect
import itertools
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from mmray import config as module
from mmray.config import Config, Section, dump_config, load_config, override
from mmray.errors import ConfigError
from mmray.features.spectral import MelFeature
from mmray.fusion import encoder_kinds, fusion_kinds
from mmray.fusion.fusion_kinds import LateFusion

BASE = """
output: runs/x
samples: {manifest: clips.jsonl}
targets:
  emotion: {kind: classification}
features:
  face: {kind: frames}
  voice: {kind: mel}
"""
FUSION_FAULT = (
    "'lat' is not one of concat, late, weighted, tensor, low_rank, sequence, spatial, cross_attention, "
    "bottleneck; did you mean 'late'?"
)


@pytest.fixture
def load(tmp_path):
    """Reads BASE with more YAML after it, and overrides."""

    def load(more: str = "", *overrides: str, base: str = BASE) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(base + more)
        return load_config(path, overrides)

    return load


@pytest.fixture
def faults(load):
    """The faults of the same, as {path: message}."""

    def faults(more: str = "", *overrides: str, base: str = BASE) -> dict[str, str]:
        with pytest.raises(ConfigError) as info:
            load(more, *overrides, base=base)
        found = dict(info.value.faults)
        assert len(found) == len(info.value.faults), "a path is named twice"
        for path, message in found.items():
            assert f"{path}" in str(info.value)
            assert "\n" not in message
        return found

    return faults


# ------------------------------------------------------------------------------------ faults


def test_a_minimal_config_has_every_default(load, tmp_path):
    config = load()
    assert config.train.epochs == module.TrainConfig().epochs
    assert config.path("features", "part-0") == f"{tmp_path}/runs/x/features/part-0"
    assert config.source_columns() == ["video", "audio"]


def test_all_faults_at_once(faults):
    more = """
trian: {}
name: Bad Name
train: {epoch: 3, batch_size: '32', monitor: 3}
extract: {placement: fuse, actors: -1, max_failed_fraction: 1.5}
model:
  fusion: {kind: lat}
  encoders:
    face: {kind: gru, hiden: 3}
    voice: {hidden: 3}
"""
    found = faults(more, "score.batch_size=x", "nonsense", "train.seed=[", "output.x=1")
    assert set(found) == {
        "trian",
        "name",
        "train.epoch",
        "train.batch_size",
        "train.monitor",
        "extract.placement",
        "extract.actors",
        "extract.max_failed_fraction",
        "model.fusion.kind",
        "model.encoders.face.hiden",
        "model.encoders.voice.kind",
        "score.batch_size",
        "nonsense",
        "train.seed=[",
        "output.x",
    }
    assert found["trian"] == "unknown key; did you mean 'train'?"
    assert found["train.epoch"] == "unknown key; did you mean 'epochs'?"
    assert found["extract.placement"].endswith("did you mean 'fused'?")
    assert found["model.fusion.kind"] == FUSION_FAULT
    assert found["model.encoders.face.hiden"] == "unknown key; did you mean 'hidden'?"
    assert (
        found["model.encoders.voice.kind"]
        == "is required: one of mlp, identity, gru, lstm, transformer, conv, stretch"
    )
    assert found["train.batch_size"] == "should be a valid integer, got '32'"
    assert found["output.x"] == "'output' is a value, it has no keys below it"


def test_required_sections(faults):
    assert faults(base="name: x\n") == dict.fromkeys(("output", "samples", "features"), "is required")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.epochs", "3.0"),
        ("train.epochs", "true"),
        ("train.epochs", "'3'"),
        ("train.epochs", "0"),
        ("train.epochs", ""),
        ("train.learning_rate", "true"),
        ("train.learning_rate", ".nan"),
        ("train.clip_norm", ".inf"),
        ("train.baselines", "1"),
        ("train.baselines", "no"),
        ("train.workers", "many"),
        ("output", "3"),
        ("storage.anonymous", "'true'"),
        ("features.face.crop", "1"),
        ("features.face.crop", "[a, 0, 1, 1]"),
        ("features.face.frames", "[8]"),
        ("targets.emotion.classes", "[happy, 1]"),
    ],
)
def test_types_are_strict(faults, setting, value):
    assert any(path.startswith(setting) for path in faults("", f"{setting}={value}"))


def test_places_in_lists_are_named(faults):
    base = BASE.replace("{kind: frames}", "{kind: frames, crop: [0, 0, 2]}")
    base = base.replace("{kind: classification}", "{kind: classification, classes: [a, 2, c]}")
    found = faults(base=base)
    assert found["features.face.crop.2"] == "should be less than or equal to 1, got 2"
    assert found["features.face.crop.3"] == "is required"
    assert found["targets.emotion.classes.1"] == "should be a valid string, got 2"


@pytest.mark.parametrize("value", ["", "3", "[1]", "text"])
def test_a_section_is_a_mapping(faults, value):
    assert faults(f"train: {value}\n")["train"].startswith("must be a mapping of settings, got ")


def test_long_values_are_cut(faults):
    assert len(faults(f"train: {list(range(1000))}\n")["train"]) < 120


def test_rules_between_settings(faults):
    more = """
model:
  encoders: {face: {kind: transformer, hidden: 10, heads: 3}, voice: {kind: conv, kernel: 4}}
  fusion: {kind: sequence, cell: transformer, hidden: 9}
tune: {space: {train.epochs: {grid: [1], choice: [1]}, train.seed: {grid: []},
               train.weight_decay: {uniform: [2, 1]}}}
"""
    base = BASE.replace("clips.jsonl", "clips.jsonl, split: {val: 0.5, test: 0.5}")
    base = base.replace("{kind: frames}", "{kind: frames, crop: [0.5, 0, 0.5, 1]}")
    found = faults(more, base=base)
    assert found["model.encoders.face"] == "hidden 10 is not divisible by heads 3"
    assert found["model.encoders.voice.kernel"] == "must be odd, so that it has a middle"
    assert found["model.fusion"] == "hidden 9 is not divisible by heads 4"
    assert found["samples.split"] == "val + test = 1 leaves nothing to train on"
    assert found["features.face"].startswith("crop must be")
    assert found["tune.space.train.epochs"].startswith("give exactly one of")
    assert found["tune.space.train.seed"] == "the list is empty"
    assert found["tune.space.train.weight_decay"] == "the range [2, 1] is empty"


def test_names_that_point_to_nothing(faults):
    more = "model: {encoders: {fcae: {kind: mlp}}}\ntrain: {monitor: emotoin/accuracy}\n"
    found = faults(more)
    assert found["model.encoders.fcae"] == "no feature has this name; did you mean 'face'?"
    assert found["train.monitor"] == "no target is named 'emotoin'; did you mean 'emotion'?"
    assert "emotion/accuracy" in faults("", "train.monitor=emotion/acc")["train.monitor"]


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("classification", "auroc"),
        ("multilabel", "f1_micro"),
        ("regression", "spearman"),
        ("regression, scale: sentiment", "acc7"),
        ("ordinal, classes: [a, b, c]", "mae"),
        ("ordinal, scale: sentiment", "f1_non0"),
    ],
)
def test_every_kind_of_target_can_be_monitored(load, faults, kind, metric):
    base = BASE.replace("{kind: classification}", f"{{kind: {kind}}}")
    assert load("", f"train.monitor=emotion/{metric}", base=base).train.monitor == f"emotion/{metric}"
    other = "acc7" if "sentiment" not in kind else "accuracy"
    assert f"emotion/{metric}" in faults("", f"train.monitor=emotion/{other}", base=base)["train.monitor"]


@pytest.mark.parametrize(
    ("target", "path", "message"),
    [
        ("classification, classes: [a, a]", "targets.emotion.classes", "names a class twice"),
        ("ordinal", "targets.emotion", "give classes, from the lowest to the highest, or scale: sentiment"),
        ("ordinal, classes: [a, b]", "targets.emotion.classes", "at least 3"),
        ("classification, classes: [a], class_weights: {b: 2}", "targets.emotion", "names b, not among"),
        ("multilabel, positive_weights: equal", "targets.emotion.positive_weights", "balanced"),
        ("multilabel, threshold: 1", "targets.emotion.threshold", "less than 1"),
        ("regression, loss: l2", "targets.emotion.loss", "not one of mse, mae, huber"),
        ("classification, label_smoothing: 1", "targets.emotion.label_smoothing", "less than 1"),
    ],
)
def test_faults_of_targets(faults, target, path, message):
    found = faults(base=BASE.replace("{kind: classification}", f"{{kind: {target}}}"))
    assert list(found) == [path]
    assert message in found[path]


def test_loss_weights_are_of_targets(load, faults):
    found = faults("train: {loss_weights: {emotoin: 2}}\n")
    assert found == {"train.loss_weights.emotoin": "no target has this name; did you mean 'emotion'?"}
    assert load("train: {loss_weights: {emotion: 2}}\n").train.loss_weights == {"emotion": 2}
    assert load("train: {loss_weights: uncertainty}\n").train.loss_weights == "uncertainty"


@pytest.mark.parametrize(
    "name", ["sample_id", "errors", "text", "model", "face", "face_length", "voice_step_s", "face_times_s"]
)
def test_targets_that_would_share_a_column(faults, name):
    assert list(faults(base=BASE.replace("emotion", name))) == [f"targets.{name}"]


def test_how_frames_are_sampled_is_checked_whole(load, faults):
    def sampled(how: str) -> str:
        return BASE.replace("{kind: frames}", f"{{kind: frames, {how}}}")

    for good in ("sampling: keyframes", "sampling: fps, fps: 2.5", "frames: 3"):
        load(base=sampled(good))
    bad = faults(base=sampled("source: image, sampling: keyframes, fps: 2.0"))
    assert "fps is given where sampling is fps" in bad["features.face"]
    assert "an image is one picture" in bad["features.face"]
    assert list(faults(base=sampled("sampling: fps"))) == ["features.face"]


def test_a_feature_may_be_named_like_a_medium(load):
    assert load(base=BASE.replace("face", "video")).features.keys() == {"video", "voice"}


@pytest.mark.parametrize("name", ["Face", "face-1", "1st", "", "größe", "a.b", "a b"])
def test_names_are_columns(faults, name):
    assert list(faults(base=BASE.replace("face", f"'{name}'"))) == [f"features.{name}"]


def test_unreadable_files(tmp_path):
    for write in (None, b"", b"- a", b"\xff\xfe\xfa", b"just text", b"a: b: c", b"a: \x00", b"a:\n\tb: 1"):
        path = tmp_path / "config.yaml"
        if write is not None:
            path.write_bytes(write)
        with pytest.raises(ConfigError) as info:
            load_config(path)
        assert str(info.value).startswith(f"{path} has 1 fault:\n")
        assert len(str(info.value).splitlines()) == 2
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


# ------------------------------------------------------------------------------------ YAML traps


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", 1e-3), ("1E3", 1e3), ("1.5e-3", 1.5e-3), (".5", 0.5), ("5.", 5.0), ("2", 2)]
)
def test_numbers_as_people_write_them(load, text, number):
    assert load(f"train: {{learning_rate: {text}}}\n").train.learning_rate == number
    assert load("", f"train.learning_rate={text}").train.learning_rate == number


def test_texts_that_yaml_1_1_reads_as_something_else(load, faults):
    texts = ["no", "yes", "on", "off", "y", "2024-01-01", "1:30", "010", "0x10", "1_0.5", "=", "1.2.3"]
    base = BASE.replace("{kind: classification}", f"{{kind: classification, classes: [{', '.join(texts)}]}}")
    assert load(base=base).targets["emotion"].classes == texts
    assert faults("train: {seed: 010, epochs: 1:30}\n") == {
        "train.seed": "should be a valid integer, got '010'",
        "train.epochs": "should be a valid integer, got '1:30'",
    }


def test_a_key_given_twice(faults):
    assert faults("train: {epochs: 3}\nfeatures:\n  face: {kind: mel}\n") == {
        "line 10, column 1": "key 'features' was already given on line 6"
    }
    assert faults("train: {epochs: 3, epochs: 3}\n") == {
        "line 9, column 20": "key 'epochs' was already given on line 9"
    }


def test_anchors_and_merge_keys(load):
    base = BASE.replace("{kind: mel}", "&mel {kind: mel, n_mels: 32}")
    features = load("  noisy: {<<: *mel, snr_db: -10.0}\n", base=base).features
    assert features["noisy"] == features["voice"].model_copy(update={"snr_db": -10.0})


@pytest.mark.parametrize(
    "text",
    ["? [1, 2]\n: 3\n", "train: &a {b: *a}\n", "---\na: 1\n", "name: !!python/name:os.system\n", "a: *b\n"],
)
def test_odd_yaml_is_a_fault_with_its_line(faults, text):
    (place,) = faults(text)
    assert place.startswith("line ")


def test_keys_that_are_not_texts(faults):
    assert set(faults("1: 2\ntrain: {2: 3}\n")) == {"1", "train.2"}


# ------------------------------------------------------------------------------------ overrides


def test_overrides_create_what_is_not_there(load):
    config = load(
        "",
        "features.noise.kind=mel",
        "features.noise.snr_db=-10",
        "model.encoders.noise={kind: gru, hidden: 8}",
        "samples.columns.video=path",
        "train.epochs=3",
        "train.epochs=4",
        "name=a",
    )
    assert config.features["noise"] == MelFeature(kind="mel", snr_db=-10.0)
    assert config.model.encoders["noise"] == encoder_kinds.RecurrentEncoder(kind="gru", hidden=8)
    assert config.samples.columns == {"video": "path"}
    assert config.train.epochs == 4
    assert config.name == "a"


def test_an_override_may_hold_an_equals_sign(load):
    assert load("", "samples.manifest=s3://b/k=v/clips.csv").samples.manifest == "s3://b/k=v/clips.csv"


@pytest.mark.parametrize("text", ["nonsense", "=3", ".a=3", "train.=3", "train..epochs=3"])
def test_malformed_overrides(faults, text):
    assert faults("", text) == {text: "an override is written section.key=value"}


def test_another_kind_starts_from_its_own_defaults(load):
    more = "model: {fusion: {kind: concat, hidden: 8}, encoders: {face: {kind: gru, hidden: 8, layers: 2}}}\n"
    config = load(
        more, "model.encoders.face.hidden=16", "model.encoders.face.kind=mlp", "model.fusion.kind=late"
    )
    assert config.model.fusion == LateFusion(kind="late")
    assert config.model.encoders["face"] == encoder_kinds.MlpEncoder(kind="mlp", hidden=16)
    same = load(more, "model.fusion.kind=concat")
    assert same.model.fusion == fusion_kinds.ConcatFusion(kind="concat", hidden=8)


def test_override_of_a_config(load):
    config = load()
    changed = override(config, {"model.fusion.kind": "late", "train.learning_rate": 0.5})
    assert changed.model.fusion == LateFusion(kind="late")
    assert changed.train.learning_rate == 0.5
    assert override(changed, {"model.fusion.kind": "concat", "train.learning_rate": 1e-3}) == config
    with pytest.raises(ConfigError) as info:
        override(config, {"train.epoch": 1, "name.x": 2, "train.seed": 0.5})
    assert [path for path, _ in info.value.faults] == ["name.x", "train.seed", "train.epoch"]


def test_configs_do_not_change(load):
    config = load()
    with pytest.raises(Exception, match="frozen"):
        config.train.epochs = 3


# ------------------------------------------------------------------------------------ paths


def test_paths_start_at_the_configs_folder_and_those_of_overrides_where_they_are_typed(
    load, tmp_path, monkeypatch
):
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    config = load("train: {initialize_from: ../model}\n")
    assert config.output == str(tmp_path / "runs/x")
    assert config.samples.manifest == str(tmp_path / "clips.jsonl")
    assert config.train.initialize_from == str(tmp_path.parent / "model")
    typed = load("", "output=out", "samples.manifest=[a.csv, s3://b/c.csv, ~/d.csv]")
    assert typed.output == str(here / "out")
    assert typed.samples.manifest == [str(here / "a.csv"), "s3://b/c.csv", str(Path.home() / "d.csv")]
    replaced = load("", "samples={folder: media}")
    assert replaced.samples.folder == str(here / "media")


def test_weights_are_a_path_where_there_is_such_a_file_and_a_name_elsewhere(load, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "net.pt").touch()
    weights = {"own/net.pt": f"{tmp_path}/own/net.pt", "default": "default", "s3://b/net.pt": "s3://b/net.pt"}
    for given, expected in weights.items():
        base = BASE.replace("{kind: frames}", f"{{kind: frames, weights: '{given}'}}")
        assert load(base=base).features["face"].weights == expected
    absent = load(base=BASE.replace("{kind: frames}", "{kind: frames, weights: ./gone.pt}"))
    assert absent.features["face"].weights == f"{tmp_path}/gone.pt", "where it was looked for"


@pytest.mark.parametrize("path", ["''", "' '", "s3://key:secret@bucket/x", "https://me:secret@host/x"])
def test_paths_that_cannot_be_or_hold_a_secret_are_refused_without_it(load, path):
    for setting in ("output", "samples.manifest", "samples.folder"):
        with pytest.raises(ConfigError) as info:
            load("", f"{setting}={path}")
        assert setting in str(info.value)
        assert "secret" not in str(info.value)


def test_a_file_that_is_not_there_is_told_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"no such file in {tmp_path}"):
        load_config("nowhere.yaml")


def test_a_config_is_also_read_from_plain_values(tmp_path, monkeypatch, load):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(BASE)
    assert load_config(values) == load()
    changed = load_config(values, {"train.epochs": 3, "model.fusion.kind": "late"})
    assert (changed.train.epochs, changed.model.fusion.kind) == (3, "late")


# ------------------------------------------------------------------------------------ strangers' files


def bomb(levels: int) -> str:
    """Aliases of aliases: ten to the power of `levels` values in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 5_000 + "]" * 5_000,
        "a: " + "{a: " * 5_000 + "}" * 5_000,
        "\n".join(f"{' ' * n}a:" for n in range(900)),
        bomb(9),
        "a: &a [*a]",
        "a: " + "9" * 10_000,
        "train: {learning_rate: " + "9" * 400 + "}",
        "train: {seed: -" + "9" * 400 + "}",
        "a: " + "x" * 2_000_000,
        "a" * 100_000 + ": 1",
        "a: !!float x",
        "a: !!int y",
        "a: !!timestamp 2024-13-45",
        "a: !!binary '*'",
        "? !!set {a}\n: b",
        "a: \ud800",
        "%YAML 3.0\n---\na: b",
        "--- a\n--- b",
    ],
    ids=lambda text: text[:20],
)
def test_malformed_or_endless_yaml_is_one_short_fault(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as info:
        load_config(path)
    assert len(str(info.value)) < 2_000


# ------------------------------------------------------------------------------------ search spaces


def test_a_search_space_names_settings_that_exist_and_values_they_take(faults):
    found = faults("""
tune:
  space:
    train.learning_rat: {log_uniform: [1e-4, 1e-2]}
    train.epochs: {uniform: [1, 3]}
    train.batch_size: {choice: [16, big]}
    model.fusion.kind: {choice: [late, lat]}
    model.encoders.face.hidden: {grid: [8]}
    train.seed.x: {grid: [1]}
""")
    assert found == {
        "tune.space.train.learning_rat": "unknown key; did you mean 'learning_rate'?",
        "tune.space.train.epochs": (
            "should be a valid integer, got 1.0; or should be a valid integer, got 3.0"
        ),
        "tune.space.train.batch_size": "should be a valid integer, got 'big'",
        "tune.space.model.fusion.kind": FUSION_FAULT,
        "tune.space.model.encoders.face.hidden": (
            "8: model.encoders.face.kind is required: "
            "one of mlp, identity, gru, lstm, transformer, conv, stretch"
        ),
        "tune.space.train.seed.x": "'seed' is a value, it has no keys below it",
    }


def test_every_draw_of_a_valid_space_is_a_valid_config(load):
    config = load("""
model: {encoders: {face: {kind: transformer}}}
tune:
  space:
    model.encoders.face.hidden: {choice: [6, 12]}
    model.encoders.face.heads: {choice: [3, 6]}
    model.fusion.kind: {choice: [concat, late]}
    train.learning_rate: {log_uniform: [1e-4, 1e-2]}
    train.clip_norm: {choice: [null, 1.0]}
""")
    space = config.tune.space
    for draw in itertools.product(*(list(s.choice or s.log_uniform or ()) for s in space.values())):
        values = dict(zip(space, draw))
        drawn = override(config, values)
        assert drawn.model.fusion.kind == values["model.fusion.kind"]
        face = drawn.model.encoders["face"]
        assert isinstance(face, encoder_kinds.TransformerEncoder)
        assert face.hidden == values["model.encoders.face.hidden"]


# ------------------------------------------------------------------------------------ round trip

FULL = """
name: everything
output: s3://bucket/runs/größe
storage: {endpoint_url: "http://localhost:9000", profile: null, anonymous: false, max_attempts: 2}
samples: {manifest: clips.csv, columns: {sample_id: "clip: id"}, split: {val: 0.2, test: 0, seed: 7}}
targets:
  emotion: {kind: classification, classes: ["1e-3", "no", "null", "010", "1:30", "a: b", "", " x", "ü", "~"]}
  strength: {kind: regression}
features:
  face: {kind: frames, crop: [0.1, 0, 0.9, 1], size: 64, weights: "1e5", dtype: float16}
  picture: {kind: frames, source: image}
  voice: {kind: mel, snr_db: -10, hop_ms: 1e-3}
  words: {kind: tokens, lowercase: false}
  sentence: {kind: transformer_text, model: "2024-01-01", pooling: mean}
extract: {actors: auto, gpus_per_encoder: 0.5, cpus_per_actor: 1}
model:
  encoders: {face: {kind: lstm, bidirectional: true}, words: {kind: transformer, heads: 2}}
  fusion: {kind: late}
train: {learning_rate: 1e-9, clip_norm: null, monitor: strength/mae, weight_decay: 0}
tune:
  space:
    train.batch_size: {grid: [16, 32]}
    model.modality_dropout: {uniform: [0, 0.5]}
    train.learning_rate: {log_uniform: [1e-9, 1e22]}
    train.clip_norm: {choice: [null, 0.1]}
"""


@pytest.mark.parametrize("text", [BASE, FULL])
def test_a_dumped_config_is_read_back_the_same(load, text):
    config = load(base=text)
    dumped = dump_config(config)
    assert load(base=dumped) == config
    assert dump_config(load(base=dumped)) == dumped
    # Any YAML 1.1 reader sees the same texts.
    classes = yaml.safe_load(dumped)["targets"]["emotion"].get("classes")
    assert classes == config.targets["emotion"].classes  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.learning_rate", 1e-12),
        ("train.learning_rate", 123456789.123456789),
        ("train.learning_rate", 1),
        ("train.seed", -(2**40)),
        ("train.workers", 3),
        ("train.clip_norm", None),
        ("name", "no"),
        ("output", "/a # b"),
        ("targets.emotion.classes", ["a # b", "1e3", "line\nline", "no", "010", "~"]),
        ("samples.columns", {"video": "the: path", "sample_id": "0"}),
        ("model.fusion", {"kind": "concat", "hidden": 64, "dropout": 0.5}),
        ("features.face.crop", [0.0, 0.25, 1.0, 0.75]),
        ("tune.space", {"train.seed": {"choice": [1, 2]}}),
    ],
)
def test_one_changed_setting_survives_the_round_trip(load, setting, value):
    config = override(load(), {setting: value})
    assert load(base=dump_config(config)) == config


SECTIONS = [
    (section, kind)
    for _, section in inspect.getmembers(module, inspect.isclass)
    if issubclass(section, Section) and section not in (Section, Config, module.SamplesConfig, module.Space)
    for kind in (
        typing.get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else [None]
    )
]


@pytest.mark.parametrize(("section", "kind"), SECTIONS)
def test_every_default_is_valid(section, kind):
    given = {"kind": kind} if kind else {}
    required = {name: "m" for name, field in section.model_fields.items() if field.is_required()}
    defaults = section.model_validate(
        required | given | ({"scale": "sentiment"} if kind == "ordinal" else {})
    )
    # pydantic takes defaults unchecked: what they dump must be accepted as if a user had written it.
    assert section.model_validate(defaults.model_dump()) == defaults


def test_reading_a_config_needs_no_heavy_library():
    code = "import sys, mmray.config, mmray.errors, mmray.storage.filesystem; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "pydantic" in loaded
    assert not loaded & {"torch", "ray", "pyarrow", "pandas", "fsspec", "transformers", "av"}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")), ids=lambda p: p.name
)
def test_the_shipped_configs_are_valid(path):
    load_config(path)
