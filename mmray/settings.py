"""What every section of the config is made of: strict models and the types of their fields.

It stands outside `mmray.config`, so that the files of kinds (features, targets, fusions) can keep their
settings beside what they do, and the config can be built from them without an import circle.
"""

import re
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Auto = Literal["auto"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
# A name becomes a Parquet column, a module name and part of file names.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """A part of the config: strict types, finite numbers, no unknown keys, immutable once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


# ------------------------------------------------------------------------------------ identity


class _Free:
    """Marks a setting that does not decide a result: `workers: Annotated[Positive, FREE] = 2`."""


FREE = _Free()


def deciding(section: BaseModel) -> dict[str, Any]:
    """The settings of a section that decide a result, as plain JSON values: all that are not `FREE`."""
    dumped = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if FREE in field.metadata:
            del dumped[name]
        elif isinstance(value, BaseModel):
            dumped[name] = deciding(value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(inner, BaseModel):
                    dumped[name][key] = deciding(inner)
    return dumped


# ------------------------------------------------------------------------------------ paths


class Names(Enum):
    """What a text that names a file may be."""

    PATH = "a path"
    PATH_OR_NAME = "a path where there is such a file or folder, else a name (of a hub, a package, …)"


def _usable(uri: str) -> str:
    if not uri.strip():
        raise ValueError("is empty: give a path")
    if re.search(r"://[^/?#]*@", uri):
        raise ValueError("holds a user name or password: keys come from the environment or storage.profile")
    return uri


FilePath = Annotated[str, AfterValidator(_usable), Names.PATH]
"""A file or folder, local or s3://. Relative ones start at the config's folder."""
PathOrName = Annotated[str, AfterValidator(_usable), Names.PATH_OR_NAME]
"""The same, or a name."""


def paths_in(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str | list[str], Names]]:
    """(dotted path of the setting, its value, what it may be) of all settings that name files."""
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        names = next((mark for mark in field.metadata if isinstance(mark, Names)), _mark(field.annotation))
        if names and value:
            yield prefix + key, value, names
        elif isinstance(value, BaseModel):
            yield from paths_in(value, f"{prefix}{key}.")
        elif isinstance(value, dict):
            for name, item in value.items():
                if isinstance(item, BaseModel):
                    yield from paths_in(item, f"{prefix}{key}.{name}.")


def _mark(annotation: Any) -> Names | None:
    """The mark of a type, or of one inside it (`FilePath | list[FilePath] | None`)."""
    for argument in typing.get_args(annotation):
        if isinstance(argument, Names):
            return argument
        if not isinstance(argument, type) and (found := _mark(argument)):
            return found
    return None
