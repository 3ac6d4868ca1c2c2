"""`imported`: vectors or words made elsewhere."""

import re
from typing import Literal, Self

from pydantic import model_validator

from mmray.features.base import Dtype, FeatureSettings, Kind
from mmray.settings import FilePath

__all__ = ["KIND", "ImportedFeature"]


class ImportedFeature(FeatureSettings):
    """Vectors (or words) made elsewhere: `mmray import-features` takes them instead of `mmray extract`."""

    kind: Literal["imported"]
    source: Literal["features"] = "features"
    path: FilePath | None = None
    """A .pkl, .npz, .npy, .h5, .json, .csv, .jsonl or .parquet file, a folder of .npy files, or that of a
    feature table, joined by `sample_id`; `{split}` stands for each split's name; default: the manifest."""
    array: str | None = None
    """Its name there; default: the feature's own. A table may have it as numbered columns, text_0, text_1."""
    lengths: str | Literal[False] | None = None
    """The array of how many steps of each row are real; default: `<array>_lengths`, where there is one;
    false: none."""
    trim_zeros: bool = True
    """Where there are no lengths: steps in front and at the end that are all zero are padding."""
    context: str | None = None
    """A pattern of sample ids with two groups, recording and place: `(.+)_([0-9]+)`. A row then holds the
    vectors of all samples of its recording (and split) in their order, its own at time 0."""
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _context_is_a_pattern(self) -> Self:
        try:
            groups = re.compile(self.context or "()()").groups
        except re.error as error:
            raise ValueError(f"context is no regular expression: {error}") from None
        if groups != 2:
            raise ValueError(f"context must have two groups, recording and place, not {groups}")
        return self


KIND = Kind(ImportedFeature)
