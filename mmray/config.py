"""One YAML file (and dotted overrides) → one strict, typed description of the whole project.

Every section is a pydantic model beside its defaults; defaults live here and nowhere else. A config
is checked whole: every unknown key, wrong type and dangling name is reported in one error, each with
its dotted path and, for a misspelt key, a suggestion. This module imports neither Ray nor torch, so a
fault is answered in a fraction of a second.
"""

import difflib
import re
import textwrap
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmray.errors import ConfigError

__all__ = [
    "ClassificationTarget",
    "Config",
    "ExtractConfig",
    "Feature",
    "FramesFeature",
    "MelFeature",
    "ModelConfig",
    "RegressionTarget",
    "SamplesConfig",
    "ScoreConfig",
    "StorageConfig",
    "Target",
    "TextFeature",
    "TokensFeature",
    "TrainConfig",
    "TuneConfig",
    "dump_config",
    "load_config",
    "override",
]

Auto = Literal["auto"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
# A name becomes a Parquet column, a module name and part of file names.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

MEDIA_SOURCES = ("video", "audio", "image", "text")


class Section(BaseModel):
    """A part of the config: strict types, finite numbers, no unknown keys, immutable once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


# ------------------------------------------------------------------------------------ where


class StorageConfig(Section):
    """How `s3://` paths are reached. Keys come from the environment or a profile, never from here."""

    endpoint_url: str | None = None
    """Server of an S3-compatible store; default: the environment's AWS_ENDPOINT_URL, else AWS."""
    profile: str | None = None
    """Profile of ~/.aws/credentials; default: the environment's credentials."""
    anonymous: bool = False
    region: str | None = None
    max_attempts: Positive = 5
    """Tries of one request before it counts as failed, with growing waits between them."""


class SplitConfig(Section):
    """Shares of samples for validation and test, where the manifest has no `split` column."""

    val: Fraction = 0.1
    test: Fraction = 0.1
    seed: int = 0

    @model_validator(mode="after")
    def _some_are_left_to_train(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on")
        return self


class SamplesConfig(Section):
    """Which samples: a manifest with one row a sample."""

    manifest: str
    """A .jsonl, .csv or .parquet file, local or s3://; relative media paths start at its folder."""
    columns: dict[str, str] = {}
    """Our column → the manifest's, where they differ: {sample_id: clip, video: path}."""
    split: SplitConfig = SplitConfig()


# ------------------------------------------------------------------------------------ targets


class ClassificationTarget(Section):
    """One of several classes."""

    kind: Literal["classification"]
    classes: list[str] | None = None
    """Names in the order of the outputs; default: the sorted labels of the train split."""


class RegressionTarget(Section):
    """A number."""

    kind: Literal["regression"]


Target = Annotated[ClassificationTarget | RegressionTarget, Field(discriminator="kind")]


# ------------------------------------------------------------------------------------ features


class FramesFeature(Section):
    """Frames of a video, or one image → vectors of a torchvision classifier without its head."""

    kind: Literal["frames"]
    source: Literal["video", "image"] = "video"
    frames: Positive = 8
    """How many, spread evenly over the sample (the middle of each of n equal spans)."""
    crop: tuple[Fraction, Fraction, Fraction, Fraction] | None = None
    """Left, top, right, bottom of the region to keep, as fractions of the picture; default: all."""
    encoder: str = "resnet18"
    """Any torchvision classifier by name."""
    weights: str = "random"
    """`random` (from `seed`), `default` (torchvision's own, downloaded), or a state dict's path."""
    seed: int = 0
    size: Positive | None = None
    """Side of the square fed to the encoder, pixels; default: what its weights were trained with."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the stored vectors."""

    @model_validator(mode="after")
    def _crop_has_an_area(self) -> Self:
        if self.crop and (self.crop[0] >= self.crop[2] or self.crop[1] >= self.crop[3]):
            raise ValueError("crop must be [left, top, right, bottom] with left < right, top < bottom")
        return self


class MelFeature(Section):
    """Sound → log-mel spectrogram, a vector of `n_mels` every `hop_ms`."""

    kind: Literal["mel"]
    source: Literal["audio"] = "audio"
    """Where the sample has no `audio`, its video's own sound track."""
    sample_rate_hz: Positive = 16_000
    n_mels: Positive = 64
    window_ms: PositiveFloat = 25.0
    hop_ms: PositiveFloat = 10.0
    snr_db: float | None = None
    """Adds white noise at this signal-to-noise ratio, seeded by the sample's id; default: none."""
    noise_seed: int = 0
    dtype: Literal["float32", "float16"] = "float32"


class TokensFeature(Section):
    """Text → words, for an embedding learned in training (the vocabulary is the train split's)."""

    kind: Literal["tokens"]
    source: Literal["text"] = "text"
    lowercase: bool = True
    max_tokens: Positive = 256


class TextFeature(Section):
    """Text → a vector a token (or one a text) from a transformers model."""

    kind: Literal["transformer_text"]
    source: Literal["text"] = "text"
    model: str
    """A folder in Hugging Face format, or a hub id."""
    max_tokens: Positive = 256
    pooling: Literal["none", "mean"] = "none"
    dtype: Literal["float32", "float16"] = "float32"


Feature = Annotated[FramesFeature | MelFeature | TokensFeature | TextFeature, Field(discriminator="kind")]


class ExtractConfig(Section):
    """How samples become features."""

    partition_samples: Positive = 64
    """Samples in one output file: the unit of work, of retry and of resume."""
    placement: Literal["auto", "fused", "split"] = "auto"
    """Decode and encode in one actor (fused), or a CPU pool feeding an encoder pool (split)."""
    actors: Positive | Auto = "auto"
    """Actors that decode (and, when fused, encode)."""
    cpus_per_actor: PositiveFloat = 1.0
    encoders: Positive | Auto = "auto"
    """Actors that encode, when split."""
    gpus_per_encoder: Annotated[float, Field(ge=0)] | Auto = "auto"
    encode_batch: Positive = 64
    """Pictures or texts that go through an encoder at once, across samples."""
    max_failed_fraction: Fraction = 0.5
    """Stop when more than this share of samples has a failed modality."""


# ------------------------------------------------------------------------------------ model


class MlpEncoder(Section):
    """Mean over time, then layers."""

    kind: Literal["mlp"]
    hidden: Positive = 64
    layers: Positive = 1
    dropout: Fraction = 0.1


class RecurrentEncoder(Section):
    """GRU or LSTM over time; its last state."""

    kind: Literal["gru", "lstm"]
    hidden: Positive = 64
    layers: Positive = 1
    bidirectional: bool = False
    dropout: Fraction = 0.1


class TransformerEncoder(Section):
    """Self-attention over time; mean of the outputs."""

    kind: Literal["transformer"]
    hidden: Positive = 64
    layers: Positive = 1
    heads: Positive = 4
    dropout: Fraction = 0.1

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not divisible by heads {self.heads}")
        return self


Encoder = Annotated[MlpEncoder | RecurrentEncoder | TransformerEncoder, Field(discriminator="kind")]


class ConcatFusion(Section):
    """Feature-level: the modalities' vectors side by side, then a layer."""

    kind: Literal["concat"]
    hidden: Positive = 64
    dropout: Fraction = 0.1


class LateFusion(Section):
    """Decision-level: each modality predicts; the mean over the modalities present."""

    kind: Literal["late"]


Fusion = Annotated[ConcatFusion | LateFusion, Field(discriminator="kind")]


class ModelConfig(Section):
    """{modality: encoder} + fusion; the heads follow from `targets`."""

    encoders: dict[Name, Encoder] = {}
    """One a feature; default: `mlp` for each."""
    fusion: Fusion = ConcatFusion(kind="concat")
    embedding: Positive = 64
    """Width of the embedding learned for token features."""
    modality_dropout: Fraction = 0.0
    """Chance to hide a present modality from the model during training (never all of them)."""


# ------------------------------------------------------------------------------------ training


class TrainConfig(Section):
    """How the fusion model learns."""

    workers: Positive | Auto = "auto"
    """DDP workers; auto: one a GPU, else 2 (or 1 on a single CPU)."""
    cpus_per_worker: PositiveFloat | Auto = "auto"
    epochs: Positive = 30
    batch_size: Positive = 32
    """Of all workers together: the result does not depend on how many there are."""
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip_norm: PositiveFloat | None = 1.0
    """Largest gradient norm; null: no clipping."""
    patience: Positive = 5
    """Epochs without a better `monitor` before training stops."""
    monitor: str = "loss"
    """What chooses the best epoch, on the validation split: `loss` or `<target>/<metric>`."""
    seed: int = 0
    baselines: bool = True
    """Also train a model on each modality alone, for the rows the fused model must beat."""
    max_restarts: Annotated[int, Field(ge=0)] = 2
    """Times the run may go on from its last checkpoint after a worker died."""


class Space(Section):
    """The values to search for one setting: exactly one of these."""

    grid: list[Any] | None = None
    """Every value in turn."""
    choice: list[Any] | None = None
    """One of the values, at random."""
    uniform: tuple[float, float] | None = None
    """A number between two, at random."""
    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = None
    """A number between two, at random on a log scale."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of " + ", ".join(type(self).model_fields))
        bounds = self.uniform or self.log_uniform
        if bounds and bounds[0] >= bounds[1]:
            raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] is empty")
        if self.grid == [] or self.choice == []:
            raise ValueError("the list is empty")
        return self


class TuneConfig(Section):
    """Which settings to search, and how hard."""

    space: dict[str, Space] = {}
    """Dotted path of a setting of `model` or `train` → {grid|choice|uniform|log_uniform: …}."""
    trials: Positive = 16
    """Draws from the space; every combination of the grids counts as one draw of the rest."""
    concurrent: Positive | Auto = "auto"
    cpus_per_trial: PositiveFloat = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    grace_epochs: Positive = 3
    """ASHA stops no trial before this many epochs."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """ASHA keeps one in this many trials at each rung."""
    seed: int = 0


class ScoreConfig(Section):
    """How the trained model is applied to a feature table."""

    actors: Positive | Auto = "auto"
    cpus_per_actor: PositiveFloat = 1.0
    gpus_per_actor: Annotated[float, Field(ge=0)] | Auto = "auto"
    batch_size: Positive = 256


class Config(Section):
    """The whole project. Everything mmray writes goes below `output`."""

    name: Name = "project"
    output: str
    storage: StorageConfig = StorageConfig()
    samples: SamplesConfig
    targets: dict[Name, Target] = Field(min_length=1)
    features: dict[Name, Feature] = Field(min_length=1)
    extract: ExtractConfig = ExtractConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    score: ScoreConfig = ScoreConfig()

    def path(self, *parts: str) -> str:
        """Where something below `output` is: `features` → `runs/demo/features`."""
        return "/".join([self.output.rstrip("/"), *parts])

    def source_columns(self) -> list[str]:
        """Media columns the features read, in a fixed order; `audio` may also come from `video`."""
        used = {feature.source for feature in self.features.values()}
        return [source for source in MEDIA_SOURCES if source in used]


# ------------------------------------------------------------------------------------ reading


class _Loader(yaml.SafeLoader):
    """YAML as people expect it, which is YAML 1.2's core schema; a key given twice is a fault.

    PyYAML follows YAML 1.1, where `no` is false, `1:30` is ninety, `010` is eight and 1e-3 is a text.
    """

    yaml_implicit_resolvers: typing.ClassVar = {}


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or `_Loader` would read as something else."""


_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
for _tag, _pattern, _first in (
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"^<<$"), "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        mark = key_node.start_mark
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(problem="a key must be a text", problem_mark=mark)
        if key_node.value in seen:
            raise yaml.constructor.ConstructorError(
                problem=f"key {key_node.value!r} was already given on line {seen[key_node.value]}",
                problem_mark=mark,
            )
        seen[key_node.value] = mark.line + 1
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "yaml"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(source, [(where, problem)]) from None


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML config and apply `section.key=value` overrides (values in YAML).

    Raises:
        ConfigError: with every fault of the file and the overrides at once.

    """
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(source, [("", f"cannot be read: {reason}")]) from None
    data = _parse(text, source)
    if not isinstance(data, dict):
        raise ConfigError(source, [("", "must be a mapping of sections; `mmray init` writes one")])
    values, faults = [], []
    for item in overrides:
        dotted, equals, value = item.partition("=")
        if not equals or not all(dotted.split(".")):
            faults.append((item, "an override is written section.key=value"))
            continue
        try:
            values.append((dotted, _parse(value, item)))
        except ConfigError as error:
            faults.append((item, error.faults[0][1]))
    data, unset = _assign(data, values)
    return _validate(data, source, faults + unset)


def override(config: Config, values: typing.Mapping[str, Any]) -> Config:
    """The same config with `{dotted path: value}` in place, checked again.

    Another `kind` starts from its own defaults: the settings beside it were those of the old kind.

    Raises:
        ConfigError: with every fault at once.

    """
    data, faults = _assign(config.model_dump(mode="json"), values.items())
    return _validate(data, "config with overrides", faults)


def dump_config(config: Config) -> str:
    """The config as YAML that `load_config` reads back to an equal one; unset values are left out."""
    data = config.model_dump(mode="json", exclude_defaults=True)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _assign(data: dict, values: typing.Iterable[tuple[str, Any]]) -> tuple[dict, list[tuple[str, str]]]:
    """Nested `data` with values at dotted paths, and the faults of those that cannot be there."""
    faults = []
    # A kind resets the settings beside it, so kinds go first.
    for dotted, value in sorted(values, key=lambda item: not item[0].endswith(".kind")):
        data, fault = _set(data, dotted, value)
        faults += [fault] if fault else []
    return data, faults


def _set(data: dict, dotted: str, value: Any) -> tuple[dict, tuple[str, str] | None]:
    """A copy of nested `data` with the value at a dotted path, or the fault that prevents it."""
    key, _, rest = dotted.partition(".")
    if not rest:
        another_kind = key == "kind" and data.get("kind") not in (None, value)
        return {**({} if another_kind else data), key: value}, None
    child = data.get(key)
    if child is not None and not isinstance(child, dict):
        return data, (dotted, f"{key!r} is a value, it has no keys below it")
    new_child, fault = _set(child or {}, rest, value)
    return {**data, key: new_child}, fault and (dotted, fault[1])


def _validate(data: dict, source: str, faults: list[tuple[str, str]]) -> Config:
    config = None
    try:
        config = Config.model_validate(_tuples(data))
    except ValidationError as error:
        faults = [*faults, *_merged(_explain(fault) for fault in error.errors())]
    if config is not None:
        faults = [*faults, *_dangling(config)]
    if faults or config is None:
        raise ConfigError(source, faults)
    return config


def _tuples(data: Any) -> Any:
    """YAML has lists only; strict tuple fields (crop, ranges) want tuples."""
    if isinstance(data, dict):
        return {
            key: tuple(value)
            if key in ("crop", "uniform", "log_uniform") and isinstance(value, list)
            else _tuples(value)
            for key, value in data.items()
        }
    return data


def _dangling(config: Config) -> list[tuple[str, str]]:
    """Names that point to nothing, and settings that contradict each other."""
    faults = []
    for name in config.model.encoders:
        if name not in config.features:
            hint = _did_you_mean(name, config.features)
            faults.append((f"model.encoders.{name}", f"no feature has this name{hint}"))
    faults += _clashing(config)
    if config.train.monitor != "loss":
        target, _, metric = config.train.monitor.partition("/")
        metrics = {
            "classification": ("accuracy", "f1_macro"),
            "regression": ("mae", "correlation"),
        }
        if target not in config.targets:
            hint = _did_you_mean(target, config.targets)
            faults.append(("train.monitor", f"no target is named {target!r}{hint}"))
        elif metric not in metrics[config.targets[target].kind]:
            allowed = ", ".join(f"{target}/{m}" for m in metrics[config.targets[target].kind])
            faults.append(("train.monitor", f"must be loss or one of {allowed}"))
    return faults + _unsearchable(config)


def _clashing(config: Config) -> list[tuple[str, str]]:
    """Columns of the sample, feature and prediction tables that two names would share."""
    owners: dict[str, str] = dict.fromkeys(("sample_id", "split", "errors"), "every table")
    faults = []
    for name in config.features:
        faults += _claim(owners, f"features.{name}", name, ("", "_length", "_start_s", "_step_s"))
    owners |= dict.fromkeys(("start_s", "end_s", *MEDIA_SOURCES), "the sample table")
    owners |= dict.fromkeys(("present", "model"), "the prediction table")
    for name in config.targets:
        faults += _claim(owners, f"targets.{name}", name, ("", "_predicted", "_probabilities"))
    return faults


def _claim(owners: dict[str, str], path: str, name: str, suffixes: tuple[str, ...]) -> list[tuple[str, str]]:
    columns = [name + suffix for suffix in suffixes]
    taken = [(column, owners[column]) for column in columns if column in owners]
    owners.update(dict.fromkeys(columns, path))
    return [(path, f"{owner} already has a column {column!r}; rename it") for column, owner in taken]


def _unsearchable(config: Config) -> list[tuple[str, str]]:
    """Settings of `tune.space` that do not exist, and values they cannot take.

    Rules between settings (heads divide hidden) are left to the trial, which knows all its values; so
    are the settings beside a `kind` that is searched too.
    """
    settings = config.model_dump(mode="json", exclude={"tune"})
    faults = []
    for dotted, space in config.tune.space.items():
        path = f"tune.space.{dotted}"
        if dotted.split(".")[0] not in ("model", "train"):
            faults.append((path, "only model.… and train.… settings are searched"))
            continue
        if f"{dotted.rpartition('.')[0]}.kind" in config.tune.space.keys() - {dotted}:
            continue
        for value in space.grid or space.choice or space.uniform or space.log_uniform or ():
            data, fault = _set(settings, dotted, value)
            found = [fault] if fault else _faults_of_types(data)
            faults += [(path, message if at == dotted else f"{at} {message}") for at, message in found]
    return _merged(faults)


def _faults_of_types(data: dict) -> list[tuple[str, str]]:
    try:
        Config.model_validate(_tuples(data))
    except ValidationError as error:
        return [_explain(fault) for fault in error.errors() if fault["type"] != "value_error"]
    return []


# ------------------------------------------------------------------------------------ explaining


def _explain(fault: Any) -> tuple[str, str]:
    """A pydantic error → (dotted path as the user wrote it, what is wrong and what to write)."""
    location, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    keys, model, annotation = _follow(location)
    path = ".".join(keys)
    got = fault.get("input")
    if kind == "extra_forbidden":
        known = list(model.model_fields) if model else []
        hint = _did_you_mean(keys[-1], known)
        return path, f"unknown key{hint or '; known keys: ' + ', '.join(known)}"
    if kind == "missing":
        return path, "is required"
    if kind in ("model_type", "dict_type"):
        return path, f"must be a mapping of settings, got {_short(got)}"
    if kind in ("list_type", "tuple_type"):
        return path, f"must be a list, got {_short(got)}"
    if kind in ("union_tag_invalid", "literal_error"):
        allowed = context.get("expected_tags") or context.get("expected", "")
        tag = context.get("tag", got)
        names = re.findall(r"'([^']+)'", allowed)
        where = f"{path}.kind" if kind == "union_tag_invalid" else path
        return where, f"{tag!r} is not one of {', '.join(names)}{_did_you_mean(str(tag), names)}"
    if kind == "union_tag_not_found":
        tags = ", ".join(tag for option in _models(annotation) for tag in _tags(option))
        return f"{path}.kind", f"is required: one of {tags}"
    if kind == "value_error":
        return path, str(context["error"])
    if kind == "string_pattern_mismatch":
        return path, f"{got!r}: a name is lower-case letters, digits and _, starting with a letter"
    message = re.sub(r"^Input should", "should", fault["msg"])
    return path, f"{message[0].lower()}{message[1:]}, got {_short(got)}"


def _short(value: Any) -> str:
    return "nothing" if value is None else textwrap.shorten(repr(value), 60, placeholder=" …")


def _merged(faults: typing.Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """One line a path: the branches of a union (`auto` or a number) each bring a fault."""
    by_path: dict[str, list[str]] = {}
    for path, message in faults:
        by_path.setdefault(path, []).append(message)
    return [(path, "; or ".join(dict.fromkeys(messages))) for path, messages in by_path.items()]


def _follow(location: tuple) -> tuple[list[str], type[BaseModel] | None, Any]:
    """Drop from a pydantic location what the user did not write (union tags, '[key]').

    Returns the keys, the model that owns the last of them, and that one's annotation.
    """
    keys: list[str] = []
    owner: type[BaseModel] | None = Config
    kind: Any = Config
    for part in location:
        options = _models(kind)
        tagged = [model for model in options if part in _tags(model) or part == model.__name__]
        if len(options) > 1 and tagged:
            kind = tagged[0]
            continue
        container = _container(kind)
        if part == "[key]" or not (options or container):
            continue
        keys.append(str(part))
        if options:
            owner = next((m for m in options if part in m.model_fields), options[0])
            field = owner.model_fields.get(part) if isinstance(part, str) else None
            kind = field.annotation if field else None
        else:
            owner, kind = None, typing.get_args(container)[-1]
    return keys, owner, kind


def _models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if typing.get_origin(kind) is Annotated:
        return _models(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [model for option in typing.get_args(kind) for model in _models(option)]
    return []


def _tags(model: type[BaseModel]) -> tuple:
    field = model.model_fields.get("kind")
    return typing.get_args(field.annotation) if field else ()


def _container(kind: Any) -> Any:
    """The dict, list or tuple among the options of an annotation, if there is one."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    return next((option for option in options if typing.get_origin(option) in (dict, list, tuple)), None)


def _did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
