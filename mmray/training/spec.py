"""What a model is besides its weights: how to build it, how to read rows for it and its outputs.

make_spec(configs, train split)  →  ModelSpec  →  build() → FusionModel
                                               →  examples(FeatureSet) → Examples
                                               ⇄  JSON, in the checkpoint
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import ConfigError, TableError
from mmray.fusion.build import ModalityShape, build_model
from mmray.fusion.model import FusionModel
from mmray.targets import FittedTarget, Target, target_from_json
from mmray.training.batches import Examples, FeatureSet
from mmray.training.statistics import Moments, Summary
from mmray.training.vocabulary import Vocabulary

__all__ = ["ModelSpec", "make_spec"]


@dataclass(frozen=True)
class ModelSpec:
    """Both configs, the features with their shapes, the targets as fitted, the vocabularies."""

    model: ModelConfig
    train: TrainConfig
    shapes: dict[str, ModalityShape]
    targets: dict[str, FittedTarget]
    vocabularies: dict[str, Vocabulary]
    features_fingerprint: str
    """Of the feature table the model was trained on, as the caller names it."""

    def build(self) -> FusionModel:
        """The model, freshly initialised from torch's global generator."""
        return build_model(
            self.model,
            self.shapes,
            {name: target.width for name, target in self.targets.items()},
            learned_weights=self.train.loss_weights == "uncertainty",
        )

    def target_configs(self) -> dict[str, Target]:
        """The targets as a config would give them, classes named."""
        return {name: fitted.target for name, fitted in self.targets.items()}

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
                ragged = replace(ragged, values=self.vocabularies[name].indices(ragged.values))
            features[name] = ragged
        return Examples(features, self.encoded(data))

    def encoded(self, data: FeatureSet) -> dict[str, np.ndarray]:
        """Of the targets, those that `data` has, as in `Batch`, [N] each."""
        return {
            name: target.encode(data.targets[name])
            for name, target in self.targets.items()
            if name in data.targets
        }

    def to_json(self) -> dict:
        """Everything but the vocabularies, as plain JSON values."""
        return {
            "model": self.model.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
            "features": {name: vars(shape) for name, shape in self.shapes.items()},
            "targets": {name: target.to_json() for name, target in self.targets.items()},
            "features_fingerprint": self.features_fingerprint,
        }

    @classmethod
    def from_json(cls, data: Mapping, vocabularies: Mapping[str, Sequence[str]]) -> "ModelSpec":
        """What `to_json` gave, and {feature: words}."""
        return cls(
            model=ModelConfig.model_validate(data["model"]),
            train=TrainConfig.model_validate(data["train"]),
            shapes={name: ModalityShape(**shape) for name, shape in data["features"].items()},
            targets={name: target_from_json(target) for name, target in data["targets"].items()},
            vocabularies={name: Vocabulary(tuple(words)) for name, words in vocabularies.items()},
            features_fingerprint=data["features_fingerprint"],
        )


def _describe(dim: int | None) -> str:
    return "words" if dim is None else f"vectors of {dim} numbers"


def make_spec(
    model: ModelConfig,
    train: TrainConfig,
    data: FeatureSet,
    summaries: Mapping[str, Summary],
    targets: Mapping[str, Target],
    features_fingerprint: str = "",
) -> ModelSpec:
    """Vocabularies and shapes from `summaries` of the train split's features, classes from `data`.

    Raises:
        SamplesError: where the train split has no sample or no value of a target, or a label is unknown.
        ConfigError: where `model.inputs` reduces a feature of words, or to more components than it has.

    """
    vocabularies, shapes = {}, {}
    for name, summary in sorted(summaries.items()):
        if isinstance(summary, Moments):
            reduce = model.inputs[name].reduce if name in model.inputs else None
            components = summary.components(name, reduce) if reduce else None
            shapes[name] = ModalityShape("vectors", len(summary.mean), components)
        else:
            if name in model.inputs:
                told = "holds words; only vectors are reduced or get noise"
                raise ConfigError("config", [(f"model.inputs.{name}", told)])
            vocabularies[name] = Vocabulary.build(summary)
            shapes[name] = ModalityShape("words", len(vocabularies[name]))
    fitted = {
        name: target.fit(name, data.targets[name], data.sample_ids, data.split == "train")
        for name, target in targets.items()
    }
    return ModelSpec(model, train, shapes, fitted, vocabularies, features_fingerprint)
