"""A text → cleaned, its words, or the vectors a transformers model gives its tokens.

Cleaning takes whole words and marks out of a text and leaves every other character where it is, so that
scripts without spaces, accents and emoji survive it.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import nn

from mmray.features.pretrained import load_network, load_preprocessor

__all__ = ["ENGLISH_STOP_WORDS", "TextEncoder", "clean", "tokenize"]

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


class TextEncoder(nn.Module):
    """A transformers model (an encoder, or the encoder of an encoder-decoder) as a function of texts.

    Args:
        model: A folder in Hugging Face format, or a hub id.
        max_tokens: Longer texts are cut, as are those longer than the model can take.

    Raises:
        TableError: where the model is not there, is not whole, or cannot be downloaded.

    """

    def __init__(self, model: str, max_tokens: int = 256):
        super().__init__()
        self.tokenizer = load_preprocessor("AutoTokenizer", model)
        self.network = load_network(model)
        if self.tokenizer.pad_token is None:  # decoders such as GPT-2; the mask hides what is padded with
            self.tokenizer.pad_token = self.tokenizer.eos_token
        positions = getattr(self.network.config, "max_position_embeddings", None) or max_tokens
        self.max_tokens = min(max_tokens, positions, self.tokenizer.model_max_length)
        self.dim = int(self.network.config.hidden_size)

    @torch.inference_mode()
    def forward(self, texts: list[str]) -> list[np.ndarray]:
        """One float32 [T, dim] a text: a vector a token, those the tokenizer adds ([CLS], [SEP]) included."""
        device = next(self.network.parameters()).device
        inputs = self.tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(device)
        states_BTD = self.network(**inputs).last_hidden_state.float().cpu().numpy()
        mask_BT = inputs["attention_mask"].bool().cpu().numpy()
        return [states[mask] for states, mask in zip(states_BTD, mask_BT)]
