"""What kinds made from texts share: their settings, how a text is cleaned, and what its words are.

Cleaning takes whole words and marks out of a text and leaves every other character where it is, so that
scripts without spaces, accents and emoji survive it.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Literal

from mmray.errors import MediaError
from mmray.features.base import FeatureSettings, Step, Text
from mmray.settings import Positive

__all__ = ["ENGLISH_STOP_WORDS", "TextSettings", "as_words", "clean", "cleaned", "takes", "tokenize"]

# Chinese and Japanese are written without spaces: each character is a word.
_IDEOGRAPH = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
# Inside a word these belong to it: apostrophes (don't), joiners of Persian and Indic scripts.
_LINKS = "'’\u200c\u200d"

_ENGLISH = """
a about above after again all am an and any are as at be because been before being below between both but by
can could did do does doing down during each few for from further had has have having he her here hers
herself him himself his how i if in into is it its itself just me more most my myself of off on once only or
other our ours ourselves out over own same she should so some such than that the their theirs them
themselves then there these they this those through to too under until up very was we were what when where
which while who whom why will with would you your yours yourself yourselves
"""
ENGLISH_STOP_WORDS = frozenset(_ENGLISH.split())
"""Articles, pronouns, prepositions, auxiliaries; no negations, which turn a sentiment round."""


class TextSettings(FeatureSettings):
    """How a text is cleaned, in this order; letters of every script are left as they are."""

    source: Literal["text"] = "text"
    lowercase: bool = True
    punctuation: bool = True
    """Whether punctuation and symbols are kept."""
    stop_words: Literal["english"] | list[str] | None = None
    """Words to leave out, in any case: a built-in list, or your own; default: none."""
    max_tokens: Positive = 256


def takes(feature: TextSettings) -> Text:
    """The sample's text."""
    return Text()


def cleaned(feature: TextSettings, text: str) -> tuple[str, list[str]]:
    """The text as the settings want it, and its words.

    Raises:
        MediaError: `empty` where no word is left.

    """
    stop_words = ENGLISH_STOP_WORDS if feature.stop_words == "english" else feature.stop_words or ()
    text = clean(
        text,
        lowercase=feature.lowercase,
        punctuation=feature.punctuation,
        stop_words=frozenset(word.lower() for word in stop_words),
    )
    found = tokenize(text, max_tokens=feature.max_tokens)
    if not found:
        raise MediaError("empty", "the text has no words")
    return text, found


def as_words(feature: TextSettings, text: str, sample_id: str) -> Step:
    """The words of a text."""
    return Step(cleaned(feature, text)[1])


def clean(
    text: str, *, lowercase: bool, punctuation: bool = True, stop_words: Collection[str] = frozenset()
) -> str:
    """The text in Unicode NFC, lowered, without punctuation and symbols, without stop words, as asked for.

    `stop_words` are in lower case. A word or mark taken out leaves a space.
    """
    text = unicodedata.normalize("NFC", text.lower() if lowercase else text)
    if punctuation and not stop_words:
        return text
    kept, at = [], 0
    for start, end in _tokens(text):
        word = text[start:end]
        mark = end - start == 1 and unicodedata.category(word)[0] in "PS"
        if (mark and not punctuation) or word.lower() in stop_words:
            kept.append(text[at:start])
            at = end
    return " ".join(" ".join([*kept, text[at:]]).split())


def tokenize(text: str, *, max_tokens: int = 256) -> list[str]:
    """Words of any script, and each mark of punctuation, symbol, Chinese or Japanese character by itself.

    A word is a run of letters, digits and their combining marks, with the apostrophes inside it. The first
    `max_tokens` are returned.
    """
    return [text[start:end] for start, end in _tokens(text)][:max_tokens]


def _tokens(text: str) -> Iterator[tuple[int, int]]:
    """Where each token begins and ends."""
    start: int | None = None
    for at, character in enumerate(text):
        linked = character in _LINKS and all(map(_in_word, (text[at - 1 : at], text[at + 1 : at + 2])))
        if linked or _in_word(character):
            start = at if start is None else start
            continue
        if start is not None:
            yield start, at
            start = None
        # Control and formatting characters are nobody's token.
        if not character.isspace() and unicodedata.category(character)[0] != "C":
            yield at, at + 1
    if start is not None:
        yield start, len(text)


def _in_word(character: str) -> bool:
    """Whether a character (or none, at the ends of a text) is a letter, digit or combining mark."""
    return character != "" and unicodedata.category(character)[0] in "LNM" and not _IDEOGRAPH.match(character)
