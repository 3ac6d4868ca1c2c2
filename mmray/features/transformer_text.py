"""`transformer_text`: a text → the vectors that a transformers model gives its tokens."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from mmray.features.base import Dtype, Kind, Step
from mmray.features.device import CPU, TOKENS, Device, batches
from mmray.features.text import TextSettings, cleaned, takes
from mmray.settings import PathOrName

__all__ = ["KIND", "TextEncoder", "TextFeature"]


class TextFeature(TextSettings):
    """Text → a vector a token (or one a text) from a transformers model."""

    kind: Literal["transformer_text"]
    model: PathOrName
    """A folder in Hugging Face format, local or s3://, or a hub id."""
    lowercase: bool = False
    """The model's own tokenizer lowers what it must."""
    pooling: Literal["none", "mean", "max", "cls"] = "none"
    """A vector a token, or one a text: their mean, the largest of each number, or the first token's."""
    dtype: Dtype = "float32"


class TextEncoder:
    """A transformers model (an encoder, or the encoder of an encoder-decoder) as a function of texts.

    Texts of like length run together, so that little is padding and a batch is bounded by its tokens.

    Args:
        model: A folder in Hugging Face format, or a hub id.
        max_tokens: Longer texts are cut, as are those longer than the model can take.
        device: Where it computes, and how many texts of `TOKENS` tokens at once.

    Raises:
        TableError: where the model is not there, is not whole, or cannot be downloaded.

    """

    cut = None

    def __init__(self, model: str, max_tokens: int = 256, device: Device = CPU):
        from mmray.features.pretrained import load_network, load_preprocessor

        self.device = device
        self.tokenizer = load_preprocessor("AutoTokenizer", model)
        self.network: Any = device.placed(load_network(model))
        if self.tokenizer.pad_token is None:  # decoders such as GPT-2; the mask hides what is padded with
            self.tokenizer.pad_token = self.tokenizer.eos_token
        positions = getattr(self.network.config, "max_position_embeddings", None) or max_tokens
        self.max_tokens = min(max_tokens, positions, self.tokenizer.model_max_length)
        self.dim = int(self.network.config.hidden_size)

    def __call__(self, steps: Sequence[Step]) -> Iterator[Any]:
        """One float32 [T, dim] a text: a vector a token, those the tokenizer adds ([CLS], [SEP]) included."""
        texts = [step.value for step in steps]
        tokens = self.tokenizer(texts, truncation=True, max_length=self.max_tokens)
        lengths = [len(ids) for ids in tokens["input_ids"]]
        encoded: list[Any] = [None] * len(texts)
        for batch in batches(lengths, self.device.batch * TOKENS):
            states = self.device.run(self._states, [{key: tokens[key][at] for key in tokens} for at in batch])
            for at, vectors in zip(batch, states, strict=True):
                encoded[at] = Step(vectors) if isinstance(vectors, np.ndarray) else vectors
        yield from encoded

    def _states(self, texts: list[dict[str, list[int]]]) -> list[np.ndarray]:
        padded = self.tokenizer.pad(
            {key: [text[key] for text in texts] for key in texts[0]},
            padding_side="right",
            return_tensors="pt",
        )
        with self.device.inference():
            inputs = {key: self.device.moved(value) for key, value in padded.items()}
            states_BTD = self.network(**inputs).last_hidden_state.float().cpu().numpy()
        mask_BT = padded["attention_mask"].bool().numpy()
        return [states[mask] for states, mask in zip(states_BTD, mask_BT, strict=True)]


def _prepare(feature: TextFeature, text: str, sample_id: str) -> Step:
    return Step(cleaned(feature, text)[0])


def _encoder(feature: TextFeature, device: Device) -> TextEncoder:
    return TextEncoder(feature.model, feature.max_tokens, device)


KIND = Kind(
    TextFeature,
    takes=takes,
    prepare=_prepare,
    encoder=_encoder,
    weights="model",
    libraries=("torch", "transformers", "tokenizers"),
)
