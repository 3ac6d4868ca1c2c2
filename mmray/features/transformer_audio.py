"""`transformer_audio`: waveforms → vectors over time of a transformers audio encoder.

Sound is cut into pieces the model can take, each piece goes through the model's own feature extractor, and
pieces of equal size go through the network together, so many seconds at a time: no clip is ever padded for a
neighbour, so a batch changes nothing, and the longest recording makes no larger batch than a short one.
What a fixed window (Whisper's 30 s, AST's 10.24 s) holds beyond the sound is cut off.

Three families, by what the network takes:

    waveform     wav2vec2, HuBERT, WavLM …: a step is what their convolutions stride over (20 ms)
    Whisper      log-mel of 30 s; its second convolution halves the frame rate: 20 ms a step
    spectrogram  AST: patches of a fixed window; a step is the mean over the patches of one time
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmray.decode.wanted import Sound
from mmray.errors import MediaError, TableError
from mmray.features.base import Cut, Kind, Step, joined
from mmray.features.device import CPU, Device
from mmray.features.sound import SoundSettings, as_heard
from mmray.settings import PathOrName, PositiveFloat

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KIND", "SpeechEncoder", "SpeechFeature", "speech_sample_rate_hz"]

KALDI_WINDOW_S, KALDI_HOP_S = 0.025, 0.010
"""Frames of AST's spectrogram (Kaldi's defaults)."""


class SpeechFeature(SoundSettings):
    """Sound → vectors of a transformers audio encoder (wav2vec2, HuBERT, WavLM, AST, Whisper …)."""

    kind: Literal["transformer_audio"]
    model: PathOrName
    """A folder in Hugging Face format, local or s3://, or a hub id."""
    chunk_s: PositiveFloat = 30.0
    """Longer sound goes through in pieces of this length, at most what the model can take."""


def speech_sample_rate_hz(model: str) -> int:
    """The rate of the sound the model wants.

    Raises:
        TableError: where it has no feature extractor.

    """
    from mmray.features.pretrained import load_preprocessor

    return int(load_preprocessor("AutoFeatureExtractor", model).sampling_rate)


class SpeechEncoder:
    """Waveforms float32 [N] → vectors float32 [T, dim].

    Step t of a waveform is about the sound around `start_s + t · step_s`.

    Args:
        model: A folder in Hugging Face format, or a hub id; of an encoder-decoder, its encoder.
        chunk_s: Longer sound is cut into pieces of this length; models of a fixed window have their own.
        device: Where it computes, and how many seconds of sound at once.

    Raises:
        TableError: where the model is not there, lacks weights, or is of no family known here.

    """

    def __init__(self, model: str, chunk_s: float = 30.0, device: Device = CPU):
        from mmray.features.pretrained import load_network, load_preprocessor

        self.device = device
        self.extractor = load_preprocessor("AutoFeatureExtractor", model)
        self.network: Any = device.placed(load_network(model))
        self.rate_hz = int(self.extractor.sampling_rate)
        config = self.network.config
        self.dim = int(config.hidden_size)
        if hasattr(config, "conv_stride"):
            self.family = "waveform"
            field, stride = 1, 1  # of the convolutions, in samples
            for kernel, hop in zip(config.conv_kernel, config.conv_stride, strict=True):
                field, stride = field + (kernel - 1) * stride, stride * hop
            self.shortest, self.overlap = field, field - stride
            self.start_s, self.step_s = field / 2 / self.rate_hz, stride / self.rate_hz
            steps = max(1, int(chunk_s / self.step_s))
        elif hasattr(config, "max_source_positions"):
            self.family = "whisper"
            steps = config.max_source_positions
            self.shortest, self.overlap = 1, 0
            self.start_s, self.step_s = 0.0, self.extractor.n_samples / self.rate_hz / steps
        elif hasattr(config, "time_stride"):
            self.family = "spectrogram"
            steps = (config.max_length - config.patch_size) // config.time_stride + 1
            self.shortest, self.overlap = math.ceil(KALDI_WINDOW_S * self.rate_hz), 0
            first_patch_s = (config.patch_size - 1) / 2 * KALDI_HOP_S
            self.start_s, self.step_s = KALDI_WINDOW_S / 2 + first_patch_s, config.time_stride * KALDI_HOP_S
        else:
            raise TableError(f"model {model} ({config.model_type}) is no audio encoder known here")
        self.chunk = steps * round(self.step_s * self.rate_hz)
        self.cut = Cut(self.chunk, self.overlap)

    def __call__(self, steps: Sequence[Step]) -> Iterator[Any]:
        """The sounds, their vectors in place of the waveform; `empty` for one too short for a step."""
        pieces = [self._pieces(step.value) for step in steps]
        encoded = self._encoded([piece for own in pieces for piece in own])
        for vectors in joined(iter(encoded), [len(own) for own in pieces]):
            if isinstance(vectors, MediaError):
                yield vectors
            elif len(vectors):
                yield Step(vectors, self.start_s, self.step_s)
            else:
                yield MediaError("empty", "the sound is too short for one step of the encoder")

    def _encoded(self, pieces: list[np.ndarray]) -> list[np.ndarray | MediaError]:
        """float32 [T, dim] a piece. Pieces of one size run together, `device.batch` seconds at a time."""
        by_size: dict[int, list[int]] = defaultdict(list)
        for place, piece in enumerate(pieces):
            by_size[len(piece) if self.family == "waveform" else self.chunk].append(place)
        encoded: list[Any] = [None] * len(pieces)
        for size, places in by_size.items():
            together = max(1, int(self.device.batch * self.rate_hz / size))
            for first in range(0, len(places), together):
                batch = places[first : first + together]
                states = self.device.run(self._states, [pieces[place] for place in batch])
                for place, vectors in zip(batch, states, strict=True):
                    encoded[place] = vectors
        return encoded

    def _states(self, pieces: list[np.ndarray]) -> Iterator[np.ndarray]:
        import torch

        with self.device.inference():
            inputs = self.device.moved(torch.stack([self._input(piece) for piece in pieces]))
            outputs_BTD = self.network(inputs).last_hidden_state.float().cpu()
        for piece, output_TD in zip(pieces, outputs_BTD, strict=True):
            yield self._steps(output_TD, len(piece))

    def _pieces(self, samples: np.ndarray) -> list[np.ndarray]:
        """Pieces whose steps follow each other without a seam; a rest too short for a step is left out."""
        size = self.chunk + self.overlap
        cut = [samples[at : at + size] for at in range(0, len(samples), self.chunk)]
        return [piece for piece in cut if len(piece) >= self.shortest]

    def _input(self, piece: np.ndarray) -> "Tensor":
        """The extractor's features of one piece: [N] samples or a spectrogram."""
        features = self.extractor(piece, sampling_rate=self.rate_hz, return_tensors="pt")
        return features[self.network.main_input_name][0]

    def _steps(self, output_TD: "Tensor", samples: int) -> np.ndarray:
        """The steps of a piece that its sound reaches."""
        if self.family == "waveform":
            return output_TD.numpy()
        if self.family == "spectrogram":
            config = self.network.config
            tall = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
            patches_FTD = output_TD[2:].unflatten(0, (tall, -1))  # after [CLS] and the distillation token
            output_TD = patches_FTD.mean(0)
        reached = max(1, math.ceil(samples / self.rate_hz / self.step_s))
        return output_TD[:reached].numpy()


def _takes(feature: SpeechFeature) -> Sound:
    return Sound(speech_sample_rate_hz(feature.model))


def _prepare(feature: SpeechFeature, samples: np.ndarray, sample_id: str) -> Step:
    return Step(as_heard(feature, samples, sample_id))  # its steps are the network's


def _encoder(feature: SpeechFeature, device: Device) -> SpeechEncoder:
    return SpeechEncoder(feature.model, feature.chunk_s, device)


KIND = Kind(
    SpeechFeature,
    takes=_takes,
    prepare=_prepare,
    encoder=_encoder,
    weights="model",
    libraries=("torch", "torchaudio", "transformers"),
)
