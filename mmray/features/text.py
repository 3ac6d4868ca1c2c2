"""What kinds made from texts share: their settings, how a text is cleaned, and what its words are.

Cleaning takes whole words and marks out of a text and leaves every other character where it is, so that
scripts without spaces, accents and emoji survive it. Characters are told apart by their Unicode category
alone. What cannot be seen (soft hyphens, direction marks, byte order marks, controls) is no part of a text,
but for joiners where they spell: in Persian, in Indic scripts, in emoji.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Literal

from mmray.errors import MediaError
from mmray.features.base import FeatureSettings, Step, Text
from mmray.settings import Positive

__all__ = ["ENGLISH_STOP_WORDS", "TextSettings", "as_words", "clean", "cleaned", "seen", "takes", "tokenize"]

# Chinese and Japanese are written without spaces: each character is a word.
_IDEOGRAPH = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
# Inside a word these belong to it (don't, col·lega, צה״ל). Source: UAX #29, MidLetter and MidNumLet.
_LINKS = "'’·‧\u05f3\u05f4"
_JOINERS = "\u200c\u200d"
_JOINED = re.compile("[\u0600-\u1cff\ua800-\uabff\U00010a00-\U00011fff]")
"""Scripts in which a joiner between two letters changes what is written."""
_SPACELESS = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1900-\u1aaf\uaa00-\uaadf]")
"""Scripts of South-East Asia and Tibet: between their words a space of no width may stand."""
_SIGNS_OF_NUMBERS = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd]")
"""Format characters that are seen. Source: Unicode, Prepended_Concatenation_Mark."""
_TINTS = re.compile("[\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
"""Skin tones and tags: parts of the emoji before them. Source: UTS #51."""
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")
"""Half a flag."""

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

    What cannot be seen is always taken out.
    `stop_words` are in lower case. A word or mark taken out leaves a space.
    """
    text = seen(text.lower() if lowercase else text)
    if punctuation and not stop_words:
        return text
    kept, at = [], 0
    for start, end in _tokens(text):
        word = text[start:end]
        mark = unicodedata.category(word[0])[0] in "PS"
        if (mark and not punctuation) or word.lower() in stop_words:
            kept.append(text[at:start])
            at = end
    return " ".join(" ".join([*kept, text[at:]]).split())


def seen(text: str) -> str:
    """The text in Unicode NFC without what cannot be seen; joiners stay where they spell.

    A space of no width becomes a space in scripts that are written without any, and is nothing in others.
    """
    text = unicodedata.normalize("NFC", text)
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    for at, character in enumerate(text):
        category = unicodedata.category(character)
        if category not in ("Cf", "Cc") or character.isspace() or _SIGNS_OF_NUMBERS.match(character):
            kept.append(character)
            continue
        before, after = "".join(kept[-1:]), text[at + 1 : at + 2]
        if character in _JOINERS and after:
            spells = _JOINED.match(before) and _JOINED.match(after)
            emoji = _part(before) and unicodedata.category(after) == "So"
            if (spells and _in_word(before) and _in_word(after)) or (character == "\u200d" and emoji):
                kept.append(character)
        elif _TINTS.match(character) and before and _part(before):
            kept.append(character)
        elif character == "\u200b" and before and after and _SPACELESS.match(before + after):
            kept.append(" ")
    return "".join(kept)


def tokenize(text: str, *, max_tokens: int = 256) -> list[str]:
    """Words of any script, and each mark of punctuation, symbol, Chinese or Japanese character by itself.

    A word is a run of letters, digits and their combining marks, with the apostrophes inside it; a symbol
    has its marks as well, and an emoji all its parts. The first `max_tokens` are returned.
    """
    text = seen(text)
    return [text[start:end] for start, end in _tokens(text)][:max_tokens]


def _tokens(text: str) -> Iterator[tuple[int, int]]:
    """Where each token of a text begins and ends."""
    start: int | None = None
    word = False
    for at, character in enumerate(text):
        before, after = text[max(at - 1, 0) : at], text[at + 1 : at + 2]
        in_word = _in_word(character)
        if start is not None and (
            unicodedata.category(character)[0] == "M"
            or (word and in_word)
            or (word and character in _LINKS + _JOINERS and _in_word(before) and _in_word(after))
            or (not word and _part(character) and (_TINTS.match(character) or character == "\u200d"))
            or (not word and before == "\u200d")
            or (_FLAG.match(character) and _FLAG.match(before) and at - start == 1)
        ):
            continue
        if start is not None:
            yield start, at
            start = None
        # Control and formatting characters are nobody's token.
        if not character.isspace() and (unicodedata.category(character)[0] != "C" or in_word):
            start, word = at, in_word
    if start is not None:
        yield start, len(text)


def _in_word(character: str) -> bool:
    """Whether a character (or none, at the ends of a text) is a letter, digit or combining mark."""
    if character == "" or _IDEOGRAPH.match(character):
        return False
    return unicodedata.category(character)[0] in "LNM" or bool(_SIGNS_OF_NUMBERS.match(character))


def _part(character: str) -> bool:
    """Whether a character may be part of an emoji: a symbol, a variation of one, a joiner, a tint."""
    if character == "":
        return False
    return (
        unicodedata.category(character) in ("So", "Sk", "Mn", "Me")
        or character == "\u200d"
        or bool(_TINTS.match(character))
    )
