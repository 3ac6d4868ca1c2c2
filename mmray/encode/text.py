"""A text → its words, or the vectors a transformers model gives its tokens."""

import os
import re
import unicodedata
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mmray.errors import TableError

__all__ = ["TextEncoder", "tokenize"]

# Chinese and Japanese are written without spaces: each character is a word.
_IDEOGRAPH = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
# Inside a word these belong to it: apostrophes (don't), joiners of Persian and Indic scripts.
_LINKS = "'’\u200c\u200d"


def tokenize(text: str, *, lowercase: bool = True, max_tokens: int = 256) -> list[str]:
    """Words of any script, and each mark of punctuation, symbol, Chinese or Japanese character by itself.

    The text is brought to Unicode NFC. A word is a run of letters, digits and their combining marks, with
    the apostrophes inside it. The first `max_tokens` are returned.
    """
    text = unicodedata.normalize("NFC", text.lower() if lowercase else text)
    spaced: list[str] = []
    for at, character in enumerate(text):
        linked = character in _LINKS and all(map(_in_word, (text[at - 1 : at], text[at + 1 : at + 2])))
        if linked or _in_word(character):
            spaced.append(character)
        else:  # control and formatting characters are nobody's token
            spaced.append(" " if unicodedata.category(character)[0] == "C" else f" {character} ")
    joined: str = "".join(spaced)
    return joined.split()[:max_tokens]


def _in_word(character: str) -> bool:
    """Whether a character (or none, at the ends of a text) is a letter, digit or combining mark."""
    return character != "" and unicodedata.category(character)[0] in "LNM" and not _IDEOGRAPH.match(character)


class TextEncoder(nn.Module):
    """A transformers model (an encoder, or the encoder of an encoder-decoder) as a function of texts.

    Args:
        model: A folder in Hugging Face format, or a hub id.
        max_tokens: Longer texts are cut, as are those longer than the model can take.
        pooling: `none`, a vector a token, those the tokenizer adds ([CLS], [SEP]) included; or `mean`, their
            mean (as sentence-transformers takes it).

    Raises:
        TableError: where the model is not there, is not whole, or cannot be downloaded.

    """

    def __init__(self, model: str, max_tokens: int = 256, pooling: Literal["none", "mean"] = "none"):
        super().__init__()
        # Slow to import, and only texts need it.
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        # Their classes are chosen by the folder's config: no static type.
        self.tokenizer: Any
        self.network: Any
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(model)
            network, loading = AutoModel.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, KeyError) as error:
            kind = "is not a folder in Hugging Face format" if os.path.isdir(model) else "cannot be loaded"
            raise TableError(f"text model {model} {kind}: {_first_line(error)}") from error
        if missing := sorted(key for key in loading["missing_keys"] if "pooler" not in key):
            raise TableError(f"text model {model} lacks {len(missing)} weights ({', '.join(missing[:3])} …)")
        self.network = (network.get_encoder() if network.config.is_encoder_decoder else network).eval()
        if self.tokenizer.pad_token is None:  # decoders such as GPT-2; the mask hides what is padded with
            self.tokenizer.pad_token = self.tokenizer.eos_token
        positions = getattr(network.config, "max_position_embeddings", None) or max_tokens
        self.max_tokens = min(max_tokens, positions, self.tokenizer.model_max_length)
        self.pooling = pooling
        self.dim = int(network.config.hidden_size)

    @torch.inference_mode()
    def forward(self, texts: list[str]) -> list[np.ndarray]:
        """One float32 [T, dim] a text: its tokens' last hidden states, or ([1, dim]) their mean."""
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
        vectors = [states[mask] for states, mask in zip(states_BTD, mask_BT)]
        return [v.mean(0, keepdims=True) for v in vectors] if self.pooling == "mean" else vectors


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
