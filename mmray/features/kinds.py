"""The kinds of features there are: a line each."""

import functools
import operator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mmray.features import (
    frames,
    imported,
    spectral,
    tokens,
    transformer_audio,
    transformer_text,
    transformer_vision,
    word_vectors,
)
from mmray.features.base import FeatureSettings, Kind

__all__ = ["KINDS", "Feature", "kind_of"]

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        frames.KIND,
        transformer_vision.KIND,
        spectral.MEL,
        spectral.SPECTROGRAM,
        spectral.MFCC,
        transformer_audio.KIND,
        tokens.KIND,
        word_vectors.KIND,
        transformer_text.KIND,
        imported.KIND,
    )
}
"""By name, as `kind` of a feature has it."""

if TYPE_CHECKING:
    Feature = FeatureSettings
else:
    _settings = functools.reduce(operator.or_, (kind.settings for kind in KINDS.values()))
    Feature = Annotated[_settings, Field(discriminator="kind")]
"""The settings of a feature of any kind."""


def kind_of(feature: FeatureSettings) -> Kind:
    """The kind of a feature with these settings."""
    return KINDS[feature.kind]
