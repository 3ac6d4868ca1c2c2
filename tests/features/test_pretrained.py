"""Transformers encoders against transformers' own classes called by hand; tiny models, made offline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mmray.decode.image import decode_image
from mmray.errors import MediaError, TableError
from mmray.features.base import Step, pieces, whole
from mmray.features.device import Device
from mmray.features.transformer_audio import SpeechEncoder, speech_sample_rate_hz
from mmray.features.transformer_vision import VisionNetwork, vision_geometry

RATE_HZ = 16_000
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def saved(folder: Path, config, processor, cls=transformers.AutoModel) -> str:
    """A random model of `config` and its processor in Hugging Face format."""
    torch.manual_seed(0)
    cls.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


# ------------------------------------------------------------------------------------ vision


def vit(folder: Path) -> str:
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
    return saved(folder, config, transformers.ViTImageProcessor(size={"height": 32, "width": 32}))


def dinov2(folder: Path) -> str:
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    processor = transformers.BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, resample=3
    )
    return saved(folder, config, processor)


def clip(folder: Path) -> str:
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    text = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return saved(folder, config, processor)


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> str:
    """A smooth picture that is not square: the processors must agree on what is kept."""
    rows, columns = np.mgrid[0:60, 0:90]
    levels = np.stack([rows * 4, columns * 2.5, 127 + 100 * np.sin((rows + columns) / 15)], axis=2)
    path = tmp_path_factory.mktemp("picture") / "smooth.png"
    Image.fromarray(levels.astype(np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("make", "vector"), [(vit, "cls"), (vit, "mean"), (dinov2, "cls"), (clip, "cls"), (clip, "pooler")]
)
def test_a_vision_model_sees_what_its_own_processor_shows_it(tmp_path, picture, make, vector):
    model = make(tmp_path)
    encoder = VisionNetwork(model, vector)
    pixels = torch.from_numpy(decode_image(picture, vision_geometry(model)).pixels)
    ours = encoder(pixels)

    processor = transformers.AutoImageProcessor.from_pretrained(model)
    network = transformers.AutoModel.from_pretrained(model).eval()
    network = getattr(network, "vision_model", network)
    inputs = processor(images=Image.open(picture), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        outputs = network(pixel_values=inputs)
    states = outputs.last_hidden_state
    expected = {"cls": states[:, 0], "mean": states.mean(1), "pooler": outputs.pooler_output}[vector]
    assert ours.shape == (1, encoder.dim) == (1, 16)
    # uint8 between resizing and scaling on both sides; roundings of single levels remain.
    torch.testing.assert_close(ours, expected, rtol=0.02, atol=0.02)
    other = encoder(255 - pixels)
    assert (other - expected).abs().max() > 5 * (ours - expected).abs().max(), "it does look"


def test_a_model_without_its_weights_or_files_is_refused(tmp_path):
    model = vit(tmp_path / "vit")
    with pytest.raises(TableError, match="cannot be loaded"):
        VisionNetwork(str(tmp_path / "nowhere"))
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(model)
    VisionNetwork(model, "cls")
    with pytest.raises(TableError, match="pooler"):
        VisionNetwork(model, "pooler")


# ------------------------------------------------------------------------------------ sound


def wav2vec2(folder: Path) -> str:
    config = transformers.Wav2Vec2Config(**SMALL, conv_dim=[8] * 7, num_conv_pos_embeddings=8)
    return saved(folder, config, transformers.Wav2Vec2FeatureExtractor())


def hubert(folder: Path) -> str:
    config = transformers.HubertConfig(**SMALL, conv_dim=[8] * 7, num_conv_pos_embeddings=8)
    return saved(folder, config, transformers.Wav2Vec2FeatureExtractor())


def whisper(folder: Path) -> str:
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=64, num_mel_bins=80,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return saved(folder, config, transformers.WhisperFeatureExtractor(feature_size=80))


def spectrogram(folder: Path) -> str:
    config = transformers.ASTConfig(**SMALL, max_length=124, num_mel_bins=32)
    return saved(folder, config, transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=124))


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


def by_hand(model: str, samples: np.ndarray) -> torch.Tensor:
    """Last hidden states [T, D] of one waveform, by transformers alone."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(model)
    network = transformers.AutoModel.from_pretrained(model).eval()
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    inputs = extractor(samples, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        return network(inputs[network.main_input_name]).last_hidden_state[0]


def vectors(encoder: SpeechEncoder, *waveforms: np.ndarray) -> list[np.ndarray]:
    """[T, dim] a sound; of one that is too short, no steps."""
    found = encoder([Step(waveform) for waveform in waveforms])
    return [np.zeros((0, encoder.dim)) if isinstance(one, MediaError) else one.value for one in found]


@pytest.mark.parametrize("make", [wav2vec2, hubert])
def test_waveform_models(tmp_path, make):
    model = make(tmp_path)
    encoder = SpeechEncoder(model)
    assert speech_sample_rate_hz(model) == RATE_HZ
    (ours,) = vectors(encoder, sound(0.7))
    np.testing.assert_allclose(ours, by_hand(model, sound(0.7)), rtol=1e-4, atol=1e-5)
    # 7 convolutions of these kernels and strides: a step every 320 samples, each of 400.
    assert ours.shape == ((11200 - 400) // 320 + 1, 16)
    assert encoder.step_s == pytest.approx(0.02)
    assert encoder.start_s == pytest.approx(0.0125)


def test_whisper(tmp_path):
    model = whisper(tmp_path)
    encoder = SpeechEncoder(model)
    (ours,) = vectors(encoder, sound(1.0))
    np.testing.assert_allclose(ours, by_hand(model, sound(1.0))[:50], rtol=1e-4, atol=1e-5)
    assert encoder.step_s == pytest.approx(0.02)


def test_patches_of_a_spectrogram_are_averaged_over_frequency(tmp_path):
    model = spectrogram(tmp_path)
    encoder = SpeechEncoder(model)
    (ours,) = vectors(encoder, sound(0.5))
    patches = by_hand(model, sound(0.5))[2:]  # 2 bands × 11 times
    expected = torch.stack([patches[t::11].mean(0) for t in range(5)])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    assert encoder.step_s == pytest.approx(0.1)


@pytest.mark.parametrize("make", [wav2vec2, whisper, spectrogram])
def test_neighbours_in_a_batch_change_nothing(tmp_path, make):
    encoder = SpeechEncoder(make(tmp_path))
    clips = [sound(0.5, 1), sound(0.9, 2), sound(0.5, 3), np.zeros(3, np.float32)]
    together = vectors(encoder, *clips)
    for clip, ours in zip(clips[:3], together, strict=False):
        np.testing.assert_allclose(ours, vectors(encoder, clip)[0], rtol=1e-4, atol=1e-5)
    assert len(together[3]) <= 1, "too short for a step of its own"


def test_long_sound_goes_in_pieces_without_a_seam(tmp_path):
    model = wav2vec2(tmp_path)
    long = sound(2.3)
    (pieces,) = vectors(SpeechEncoder(model, chunk_s=1.0), long)
    (whole,) = vectors(SpeechEncoder(model, chunk_s=30.0), long)
    assert len(pieces) == len(whole), "as many steps, so the same times"
    # Each piece is one second of steps, computed as if it were alone.
    np.testing.assert_allclose(pieces[50:100], by_hand(model, long[16000 : 32000 + 80]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [wav2vec2, whisper])
@pytest.mark.parametrize("seconds", [0.4, 2.0, 2.3, 3.01])
def test_a_sound_sent_in_pieces_is_the_whole_sound(tmp_path, make, seconds):
    """Cut to travel, not to be encoded: the same pieces go through the network."""
    encoder = SpeechEncoder(make(tmp_path), chunk_s=0.5)
    step = Step(sound(seconds))
    parts = pieces(step, encoder.cut, most_bytes=4 * max(9_000, encoder.cut.every))
    assert len(parts) > 1 or seconds < 2 or encoder.cut.every > len(step.value)
    (expected,) = encoder([step])
    found = whole(list(encoder(parts)))
    assert isinstance(found, Step)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4, atol=1e-5)
    assert found[1:] == expected[1:]


def test_the_longest_sound_makes_no_larger_batch(tmp_path):
    """Seconds of sound that go through the network at once: as many as a device's batch says."""
    encoder = SpeechEncoder(wav2vec2(tmp_path), chunk_s=0.5, device=Device(batch=2))
    sizes = []
    encoder.network.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape))
    list(encoder([Step(sound(7.0)), Step(sound(0.2))]))
    assert sum(rows for rows, _ in sizes) == 15
    assert max(rows * samples for rows, samples in sizes) <= 2 * RATE_HZ


def test_a_model_of_another_kind_is_no_audio_encoder(tmp_path):
    config = transformers.BertConfig(**SMALL, vocab_size=50)
    model = saved(tmp_path, config, transformers.Wav2Vec2FeatureExtractor())
    with pytest.raises(TableError, match="no audio encoder"):
        SpeechEncoder(model)
