"""Waveforms → vectors over time of a transformers audio encoder.

Sound is cut into pieces the model can take, each piece goes through the model's own feature extractor, and
pieces of equal size go through the network together: no clip is ever padded for a neighbour, so a batch
changes nothing. What a fixed window (Whisper's 30 s, AST's 10.24 s) holds beyond the sound is cut off.

Three families, by what the network takes:

    waveform     wav2vec2, HuBERT, WavLM …: a step is what their convolutions stride over (20 ms)
    Whisper      log-mel of 30 s; its second convolution halves the frame rate: 20 ms a step
    spectrogram  AST: patches of a fixed window; a step is the mean over the patches of one time
"""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import nn

from mmray.errors import TableError
from mmray.features.pretrained import load_network, load_preprocessor

__all__ = ["SpeechEncoder", "speech_sample_rate_hz"]

KALDI_WINDOW_S, KALDI_HOP_S = 0.025, 0.010
"""Frames of AST's spectrogram (Kaldi's defaults)."""


def speech_sample_rate_hz(model: str) -> int:
    """The rate of the sound the model wants.

    Raises:
        TableError: where it has no feature extractor.

    """
    return int(load_preprocessor("AutoFeatureExtractor", model).sampling_rate)


class SpeechEncoder(nn.Module):
    """float32 waveforms [N] → float32 [T, dim]; in eval mode, without gradients.

    Step t of a waveform is about the sound around `start_s + t · step_s`.

    Args:
        model: A folder in Hugging Face format, or a hub id; of an encoder-decoder, its encoder.
        chunk_s: Longer sound is cut into pieces of this length; models of a fixed window have their own.

    Raises:
        TableError: where the model is not there, lacks weights, or is of no family known here.

    """

    def __init__(self, model: str, chunk_s: float = 30.0):
        super().__init__()
        self.extractor = load_preprocessor("AutoFeatureExtractor", model)
        self.network: Any = load_network(model)
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

    @torch.inference_mode()
    def forward(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        """One float32 [T, dim] a waveform; T is 0 for one too short for a step."""
        pieces = [self._pieces(samples) for samples in waveforms]
        inputs = {
            (clip, at): self._input(piece)
            for clip, parts in enumerate(pieces)
            for at, piece in enumerate(parts)
        }
        by_size: dict[torch.Size, list[tuple[int, int]]] = defaultdict(list)
        for place, features in inputs.items():
            by_size[features.shape].append(place)
        states: dict[tuple[int, int], np.ndarray] = {}
        device = next(self.network.parameters()).device
        for places in by_size.values():
            batch = torch.stack([inputs[place] for place in places]).to(device)
            outputs = self.network(batch).last_hidden_state.float().cpu()
            for (clip, at), output_TD in zip(places, outputs, strict=True):
                states[clip, at] = self._steps(output_TD, len(pieces[clip][at]))
        nothing = np.zeros((0, self.dim), np.float32)
        return [
            np.concatenate([nothing, *(states[clip, at] for at in range(len(parts)))])
            for clip, parts in enumerate(pieces)
        ]

    def _pieces(self, samples: np.ndarray) -> list[np.ndarray]:
        """Pieces whose steps follow each other without a seam; a rest too short for a step is left out."""
        size = self.chunk + self.overlap
        cut = [samples[at : at + size] for at in range(0, len(samples), self.chunk)]
        return [piece for piece in cut if len(piece) >= self.shortest]

    def _input(self, piece: np.ndarray) -> torch.Tensor:
        """The extractor's features of one piece: [N] samples or a spectrogram."""
        features = self.extractor(piece, sampling_rate=self.rate_hz, return_tensors="pt")
        return features[self.network.main_input_name][0]

    def _steps(self, output_TD: torch.Tensor, samples: int) -> np.ndarray:
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
