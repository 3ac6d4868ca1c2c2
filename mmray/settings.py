"""What every section of the config is made of: strict models and the types of their fields.

It stands outside `mmray.config`, so that the files of kinds (features, targets, fusions) can keep their
settings beside what they do, and the config can be built from them without an import circle.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
# A name becomes a Parquet column, a module name and part of file names.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """A part of the config: strict types, finite numbers, no unknown keys, immutable once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
