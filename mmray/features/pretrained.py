"""A folder in Hugging Face format, or a hub id → its network and its preprocessor, whole or refused."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from mmray.errors import TableError

__all__ = ["load_network", "load_preprocessor"]

T = TypeVar("T")


def load_network(model: str, *, needs_pooler: bool = False) -> Any:
    """The model's encoder in eval mode, float32; of an encoder-decoder, the encoder.

    A missing pooler is no fault unless it `needs_pooler`: many checkpoints were saved without.

    Raises:
        TableError: where the model is not there, lacks weights, or cannot be downloaded.

    """
    from transformers import AutoModel  # slow to import

    def load() -> tuple[Any, dict[str, Any]]:
        return AutoModel.from_pretrained(model, dtype=torch.float32, output_loading_info=True)

    network, loading = _loaded(model, load)
    if missing := sorted(k for k in loading["missing_keys"] if needs_pooler or "pooler" not in k):
        raise TableError(f"model {model} lacks {len(missing)} weights ({', '.join(missing[:3])} …)")
    return (network.get_encoder() if network.config.is_encoder_decoder else network).eval()


def load_preprocessor(auto: str, model: str) -> Any:
    """What transformers' class `auto` (AutoTokenizer, AutoFeatureExtractor …) makes of the model.

    Raises:
        TableError: where it is not there, or cannot be downloaded.

    """
    import transformers

    return _loaded(model, lambda: getattr(transformers, auto).from_pretrained(model))


def _loaded(model: str, load: Callable[[], T]) -> T:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError) as error:
        kind = "is not a folder in Hugging Face format" if os.path.isdir(model) else "cannot be loaded"
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TableError(f"model {model} {kind}: {first_line}") from error
