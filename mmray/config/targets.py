"""What is to be predicted, and the loss it is learned with."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mmray.settings import PositiveFloat, Section


def _distinct(classes: list[str]) -> list[str]:
    if len(set(classes)) < len(classes):
        raise ValueError("names a class twice")
    return classes


Classes = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]
Weights = dict[str, PositiveFloat] | Literal["balanced"]


def _require_classes(weights: Weights | None, classes: list[str] | None, setting: str) -> None:
    if isinstance(weights, dict) and classes and (unknown := sorted(set(weights) - set(classes))):
        raise ValueError(f"{setting} names {', '.join(unknown)}, not among classes ({', '.join(classes)})")


class ClassificationTarget(Section):
    """One of several classes."""

    kind: Literal["classification"]
    classes: Classes | None = None
    """Names in the order of the outputs; default: the sorted labels of the train split."""
    class_weights: Weights | None = None
    """Weight of a row in the loss by its class: {class: weight} (1 where not named), or `balanced`: rows /
    (classes × rows of the class) in the train split; default: every row counts the same."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the truth that the loss spreads evenly over all classes."""

    @model_validator(mode="after")
    def _weights_name_classes(self) -> Self:
        _require_classes(self.class_weights, self.classes, "class_weights")
        return self


class MultilabelTarget(Section):
    """Any number of several classes at once: a list in the manifest, `a|b` in a CSV."""

    kind: Literal["multilabel"]
    classes: Classes | None = None
    """Names in the order of the outputs; default: the sorted labels of the train split."""
    positive_weights: Weights | None = None
    """Weight of a class's loss where it is true: {class: weight} (1 where not named), or `balanced`:
    (rows without it + 1) / (rows with it + 1) in the train split; default: 1."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Smallest probability at which a class is predicted."""

    @model_validator(mode="after")
    def _weights_name_classes(self) -> Self:
        _require_classes(self.positive_weights, self.classes, "positive_weights")
        return self


class RegressionTarget(Section):
    """A number."""

    kind: Literal["regression"]
    loss: Literal["mse", "mae", "huber"] = "mse"
    """Of numbers in the train split's standard deviations; `huber` is linear beyond one of them."""
    scale: Literal["sentiment"] | None = None
    """`sentiment`: a score from -3 to 3, also judged as the sentiment literature does (Acc-2, Acc-7 …)."""


class OrdinalTarget(Section):
    """One of several ordered levels: named classes, or a sentiment score rounded to -3 … 3."""

    kind: Literal["ordinal"]
    classes: Annotated[Classes, Field(min_length=3)] | None = None
    """Names from the lowest to the highest."""
    scale: Literal["sentiment"] | None = None
    """`sentiment`: the levels are -3 … 3, truth and prediction are numbers."""

    @model_validator(mode="after")
    def _classes_or_scale(self) -> Self:
        if (self.classes is None) == (self.scale is None):
            raise ValueError("give classes, from the lowest to the highest, or scale: sentiment")
        return self


Target = Annotated[
    ClassificationTarget | MultilabelTarget | RegressionTarget | OrdinalTarget, Field(discriminator="kind")
]
