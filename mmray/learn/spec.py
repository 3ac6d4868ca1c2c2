"""What a model is besides its weights: how to build it, how to read rows for it and its outputs.

make_spec(configs, train split)  →  ModelSpec  →  build() → FusionModel
                                               →  examples(FeatureSet) → Examples
                                               ⇄  JSON, in the checkpoint
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmray.config import ModelConfig, Target, TrainConfig
from mmray.errors import TableError
from mmray.fusion.model import FusionModel, ModalityShape, build_model
from mmray.learn.batches import Examples, FeatureSet, Ragged
from mmray.learn.codes import TargetCodes, Vocabulary, codes_from_json, codes_to_json, usable_std
from mmray.learn.fitting import fit_codes

__all__ = ["ModelSpec", "feature_statistics", "make_spec"]


@dataclass(frozen=True)
class ModelSpec:
    """Both configs, the features with their shapes, the targets with their codes, the vocabularies."""

    model: ModelConfig
    train: TrainConfig
    shapes: dict[str, ModalityShape]
    targets: dict[str, TargetCodes]
    vocabularies: dict[str, Vocabulary]
    features_fingerprint: str
    """Of the feature table the model was trained on, as the caller names it."""

    def build(self) -> FusionModel:
        """The model, freshly initialised from torch's global generator."""
        return build_model(
            self.model,
            self.shapes,
            {name: codes.width for name, codes in self.targets.items()},
            learned_weights=self.train.loss_weights == "uncertainty",
        )

    def target_configs(self) -> dict[str, Target]:
        """The targets as a config would give them, classes named."""
        return {name: codes.target for name, codes in self.targets.items()}

    def examples(self, data: FeatureSet) -> Examples:
        """The rows of `data` as numbers; of the targets, those it has.

        Raises:
            TableError: where a feature has another shape than the model was trained with.

        """
        features = {}
        for name, shape in self.shapes.items():
            ragged = data.features[name]
            wanted = shape.size if shape.kind == "vectors" else None
            if ragged.dim != wanted:
                raise TableError(
                    f"feature {name} holds {_describe(ragged.dim)}, "
                    f"the model was trained on {_describe(wanted)}"
                )
            if wanted is None:
                ragged = Ragged(self.vocabularies[name].indices(ragged.values), ragged.offsets)
            features[name] = ragged
        targets = {
            name: codes.encode(data.targets[name])
            for name, codes in self.targets.items()
            if name in data.targets
        }
        return Examples(features, targets)

    def to_json(self) -> dict:
        """Everything but the vocabularies, as plain JSON values."""
        return {
            "model": self.model.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
            "features": {name: vars(shape) for name, shape in self.shapes.items()},
            "targets": {name: codes_to_json(codes) for name, codes in self.targets.items()},
            "features_fingerprint": self.features_fingerprint,
        }

    @classmethod
    def from_json(cls, data: Mapping, vocabularies: Mapping[str, Sequence[str]]) -> "ModelSpec":
        """What `to_json` gave, and {feature: words}."""
        return cls(
            model=ModelConfig.model_validate(data["model"]),
            train=TrainConfig.model_validate(data["train"]),
            shapes={name: ModalityShape(**shape) for name, shape in data["features"].items()},
            targets={name: codes_from_json(target) for name, target in data["targets"].items()},
            vocabularies={name: Vocabulary(tuple(words)) for name, words in vocabularies.items()},
            features_fingerprint=data["features_fingerprint"],
        )


def _describe(dim: int | None) -> str:
    return "words" if dim is None else f"vectors of {dim} numbers"


def make_spec(
    model: ModelConfig,
    train: TrainConfig,
    data: FeatureSet,
    features: Sequence[str],
    targets: Mapping[str, Target],
    features_fingerprint: str = "",
) -> ModelSpec:
    """Vocabularies, classes and scales from the train split of `data`.

    Raises:
        SamplesError: where the train split has no sample or no value of a target, or a label is unknown.

    """
    in_train = data.split == "train"
    vocabularies, shapes = {}, {}
    for name in sorted(features):
        ragged = data.features[name]
        if ragged.dim is None:
            vocabularies[name] = Vocabulary.build(ragged.take(np.flatnonzero(in_train)).values)
            shapes[name] = ModalityShape("words", len(vocabularies[name]))
        else:
            shapes[name] = ModalityShape("vectors", ragged.dim)
    codes = {
        name: fit_codes(name, target, data.targets[name], data.sample_ids, in_train)
        for name, target in targets.items()
    }
    return ModelSpec(model, train, shapes, codes, vocabularies, features_fingerprint)


def feature_statistics(name: str, feature: Ragged, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over all steps of these rows, [D] float32 each; 1 for a constant.

    Raises:
        TableError: where a value is not finite.

    """
    steps = max(int(feature.lengths[rows].sum()), 1)
    mean = sum((chunk.sum(0) for chunk in _chunks(feature, rows)), np.zeros(feature.dim or 0)) / steps
    if not np.isfinite(mean).all():
        raise TableError(
            f"feature {name} holds values that are not finite in the train split "
            "(float16 overflows at 65504: extract it as float32)"
        )
    squares = sum((((chunk - mean) ** 2).sum(0) for chunk in _chunks(feature, rows)), np.zeros_like(mean))
    std = usable_std(mean, np.sqrt(squares / steps))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _chunks(feature: Ragged, rows: np.ndarray, size: int = 1024) -> Iterator[np.ndarray]:
    """Steps of `size` rows at a time, float64: a whole copy of the feature could exceed memory."""
    for start in range(0, len(rows), size):
        yield feature.take(rows[start : start + size]).values.astype(np.float64)
