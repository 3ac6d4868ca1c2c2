"""What is predicted. A kind of target is one file: its settings, labels, loss, metrics, columns and figure.

    classification   one of several classes
    multilabel       any number of several classes at once
    regression       a number
    ordinal          one of several ordered levels

`base` says what a kind is made of, `metrics` holds the arithmetic that kinds share. A new kind is a file and
a line in `KINDS`. Nothing here imports torch before a model is trained.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, TypeAdapter

from mmray.targets.base import FittedTarget, Predicted, Target, known, lower_is_better
from mmray.targets.classification import ClassificationTarget, FittedClassification
from mmray.targets.multilabel import FittedMultilabel, MultilabelTarget
from mmray.targets.ordinal import FittedOrdinal, OrdinalTarget
from mmray.targets.regression import FittedRegression, RegressionTarget

__all__ = [
    "CLASSES_METADATA",
    "AnyTarget",
    "ClassificationTarget",
    "FittedClassification",
    "FittedMultilabel",
    "FittedOrdinal",
    "FittedRegression",
    "FittedTarget",
    "MultilabelTarget",
    "OrdinalTarget",
    "Predicted",
    "RegressionTarget",
    "Target",
    "known",
    "lower_is_better",
    "metadata_of",
    "target_from_json",
    "targets_in",
]

KINDS = (
    ClassificationTarget,
    MultilabelTarget,
    RegressionTarget,
    OrdinalTarget,
)

if TYPE_CHECKING:
    import pyarrow as pa

    AnyTarget = Target
else:
    AnyTarget = Annotated[Union[KINDS], Field(discriminator="kind")]  # noqa: UP007
"""A target of any kind, as a config's field."""


def target_from_json(data: Mapping[str, Any]) -> FittedTarget:
    """What `FittedTarget.to_json` gave."""
    target: Target = TypeAdapter(AnyTarget).validate_python(data["target"])
    return target.restore({key: value for key, value in data.items() if key != "target"})


METADATA = b"mmray.targets"
"""Key of the metadata of a table of predictions: {target: `to_json`} as JSON."""
CLASSES_METADATA = b"mmray.classes"
"""And for whoever reads it without mmray: {target: [class, …]}, the order of its probabilities."""


def metadata_of(targets: Mapping[str, FittedTarget]) -> dict[bytes, bytes]:
    """What a table of predictions says of its targets."""
    classes = {name: target.names for name, target in targets.items() if target.names}
    fitted = {name: target.to_json() for name, target in targets.items()}
    return {CLASSES_METADATA: json.dumps(classes).encode(), METADATA: json.dumps(fitted).encode()}


def targets_in(schema: "pa.Schema") -> dict[str, FittedTarget]:
    """The targets of a table of predictions; {} where its metadata names none."""
    fitted = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
    return {name: target_from_json(data) for name, data in fitted.items()}
