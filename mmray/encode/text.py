"""A text → its words, or the vectors a transformers model gives its tokens."""

import os
import re
import unicodedata
from typing import Any

import numpy as np
import torch
from torch import nn

from mmray.errors import TableError

__all__ = ["TextEncoder", "tokenize"]

# Scripts written without spaces: each character is a word.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|(?:(?![{_IDEOGRAPHS}])[\w’'])+|[^\w\s]")


def tokenize(text: str, *, lowercase: bool = True, max_tokens: int = 256) -> list[str]:
    """Words (with their apostrophes), each mark of punctuation, each ideograph; Unicode NFC."""
    text = unicodedata.normalize("NFC", text)
    return _WORD.findall(text.lower() if lowercase else text)[:max_tokens]


class TextEncoder(nn.Module):
    """A transformers model as a function of texts; weights from a local folder, or a hub id."""

    def __init__(self, model: str, max_tokens: int = 256, pooling: str = "none"):
        super().__init__()
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            # transformers' own classes are chosen by the folder's config: no static type.
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
            self.network: Any = AutoModel.from_pretrained(model).eval()
        except (OSError, ValueError) as error:
            kind = "is not a folder in Hugging Face format" if os.path.isdir(model) else "cannot be loaded"
            raise TableError(f"text model {model} {kind}: {_first_line(error)}") from None
        self.max_tokens = max_tokens
        self.pooling = pooling
        self.dim = int(self.network.config.hidden_size)

    @torch.inference_mode()
    def forward(self, texts: list[str]) -> list[np.ndarray]:
        """One float32 [T, dim] a text: its tokens' last hidden states, or ([1, dim]) their mean."""
        device = next(self.network.parameters()).device
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(device)
        states_BTD = self.network(**inputs).last_hidden_state.float().cpu().numpy()
        mask_BT = inputs["attention_mask"].bool().cpu().numpy()
        vectors = [states[mask] for states, mask in zip(states_BTD, mask_BT)]
        return [v.mean(0, keepdims=True) for v in vectors] if self.pooling == "mean" else vectors


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
