"""What is to be predicted."""

from typing import Annotated, Literal

from pydantic import Field

from mmray.config.base import Section


class ClassificationTarget(Section):
    """One of several classes."""

    kind: Literal["classification"]
    classes: list[str] | None = None
    """Names in the order of the outputs; default: the sorted labels of the train split."""


class RegressionTarget(Section):
    """A number."""

    kind: Literal["regression"]


Target = Annotated[ClassificationTarget | RegressionTarget, Field(discriminator="kind")]
