"""`tokens`: a text → its words, for an embedding that training learns."""

from typing import Literal

from mmray.features.base import Kind
from mmray.features.text import TextSettings, as_words, takes

__all__ = ["KIND", "TokensFeature"]


class TokensFeature(TextSettings):
    """Text → words, for an embedding learned in training (the vocabulary is the train split's)."""

    kind: Literal["tokens"]


KIND = Kind(TokensFeature, takes=takes, prepare=as_words, dim=lambda feature: None)
