"""Encoders inside the table: pooling and its times, numbers that do not fit, weights on S3."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.io import wavfile

from mmray.features.base import Step
from mmray.features.device import Device
from mmray.features.encoding import Encoding, pooled
from mmray.features.frames import FramesFeature
from mmray.features.preparing import Preparation, Prepared
from mmray.features.spectral import MelFeature, MfccFeature, SpectrogramFeature
from mmray.features.transformer_audio import SpeechFeature
from mmray.features.weights import local_weights, weights_fingerprint
from mmray.features.word_vectors import WordVectorsFeature
from mmray.storage.filesystem import Storage
from mmray.tables.schemas import sample_schema
from tests.features.joining import joined


def samples(rows: list[dict], *sources: str) -> pa.Table:
    given = [{"sample_id": f"s{i}", "media_key": "", **row} for i, row in enumerate(rows)]
    return pa.Table.from_pylist(given, schema=sample_schema(sources, {}))


def table_of(features: dict, rows: list[dict], *sources: str, storage: Storage | None = None) -> pa.Table:
    storage = storage or Storage()
    prepared = Preparation(features, storage)(samples(rows, *sources))
    return joined(Encoding(features, device=Device(batch=4), storage=storage)(prepared))


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [2, 5 / 3]), ("max", [4, 3]), ("cls", [0, 1])])
def test_one_vector_stands_in_the_middle_of_its_steps(pooling, expected):
    step = Step(np.array([[0, 1], [2, 1], [4, 3]], np.float32), 1.0, 0.5)
    vector = pooled(step, pooling)
    np.testing.assert_allclose(np.asarray(vector.value), [expected])
    # Steps at 1.0, 1.5 and 2.0 s, half a second each.
    assert (vector.start_s, vector.step_s) == (1.5, 1.5)
    timed = pooled(step._replace(times_s=np.array([0, 1, 5], np.float32)), pooling)
    assert timed.start_s == timed.times_s == pytest.approx(2.0)


def test_every_spectrum_of_a_sound_has_its_steps_and_times(tmp_path):
    wavfile.write(tmp_path / "a.wav", 16000, np.sin(np.arange(16000) / 10).astype(np.float32))
    features = {
        "mel": MelFeature(kind="mel", n_mels=8),
        "mean": MelFeature(kind="mel", n_mels=8, pooling="mean"),
        "cepstrum": MfccFeature(kind="mfcc", n_mfcc=5),
        "spectrum": SpectrogramFeature(kind="spectrogram", window_ms=10.0, hop_ms=5.0),
    }
    (row,) = table_of(features, [{"audio": str(tmp_path / "a.wav")}], "audio").to_pylist()
    assert [row[f"{name}_length"] for name in features] == [101, 1, 101, 201]
    assert [len(row[name][0]) for name in features] == [8, 8, 5, 129]
    np.testing.assert_allclose(row["mean"][0], np.mean(row["mel"], axis=0), rtol=1e-5)
    assert row["mean_start_s"] == pytest.approx(0.5)
    assert row["errors"] == []


def test_numbers_the_table_cannot_hold_are_failures():
    features = {"voice": MelFeature(kind="mel", n_mels=2, dtype="float16")}
    steps: list[Step | None] = [
        Step(np.array([[value, 0]], np.float32), 0.0, 1.0) for value in (1, 70_000, np.inf, np.nan)
    ]
    steps.append(Step(np.zeros((1, 3), np.float32), 0.0, 1.0))  # wider than the others
    prepared = Prepared(samples([{}] * 5), {"voice": [True] * 5}, {"voice": steps}, {"voice": [None] * 5})
    table = joined(Encoding(features, device=Device(batch=4))(prepared))
    assert table["voice"].is_null().to_pylist() == [False, True, True, True, True]
    reasons = [
        [(e["stage"], e["modality"], e["reason"]) for e in errors] for errors in table["errors"].to_pylist()
    ]
    assert reasons == [[], *[[("encode", "voice", "corrupt")]] * 4]


def test_words_without_a_vector_are_no_steps_and_weights_may_lie_on_s3(s3):
    storage = Storage()
    storage.write(s3.uri("weights", "vectors.txt"), b"good 1 0\nbad 0 1\n")
    path = s3.uri("weights", "vectors.txt")
    features = {"words": WordVectorsFeature(kind="word_vectors", path=path)}
    rows = [{"text": "Good, not bad!"}, {"text": "unheard of"}, {"text": "..."}]
    table = table_of(features, rows, "text", storage=storage)
    assert table["words"].to_pylist() == [[[1, 0], [0, 1]], None, None]
    assert [[e["reason"] for e in row] for row in table["errors"].to_pylist()] == [[], ["empty"], ["empty"]]

    before = weights_fingerprint(local_weights(path, storage))
    assert local_weights(path, storage) == local_weights(path, storage)
    storage.write(path, b"good 1 0\nbad 0 2\n")
    assert weights_fingerprint(local_weights(path, storage)) != before
    storage.write(s3.uri("weights", "folder", "a.txt"), b"x")
    storage.write(s3.uri("weights", "folder", "sub", "b.txt"), b"y")
    assert weights_fingerprint(local_weights(s3.uri("weights", "folder"), storage)).startswith("sha256:")


def test_sound_of_a_speech_model_is_at_its_rate(tmp_path):
    import transformers

    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
        num_conv_pos_embeddings=8,
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path / "model")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "model")
    wavfile.write(tmp_path / "a.wav", 8000, np.sin(np.arange(8000) / 5).astype(np.float32))
    wavfile.write(tmp_path / "short.wav", 8000, np.sin(np.arange(100) / 5).astype(np.float32))
    features = {"speech": SpeechFeature(kind="transformer_audio", model=str(tmp_path / "model"))}
    rows = [{"audio": str(tmp_path / name)} for name in ("a.wav", "short.wav")]
    whole, short = table_of(features, rows, "audio").to_pylist()
    assert whole["speech_length"] == (16000 - 400) // 320 + 1
    assert (whole["speech_start_s"], whole["speech_step_s"]) == pytest.approx((0.0125, 0.02))
    assert short["speech"] is None
    assert short["errors"][0]["reason"] == "empty"


@pytest.mark.parametrize("pooling", ["none", "mean"])
def test_the_regions_that_a_crop_followed_are_stored_with_the_vectors(pooling):
    feature = FramesFeature.model_validate(
        {"kind": "frames", "frames": 3, "size": 32, "crop": {"around": "mouth"}, "pooling": pooling}
    )
    boxes = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    pictures = np.zeros((3, 32, 32, 3), np.uint8)
    step = Step(pictures, 0.0, 0.5, np.arange(3, dtype=np.float32) / 2, boxes)
    lost = {"stage": "decode", "reason": "no_face", "detail": "", "attempts": 1}
    wanted, steps, errors = {"face": [True, True]}, {"face": [step, None]}, {"face": [None, lost]}
    prepared = Prepared(samples([{"video": "a.mp4"}, {"video": "b.mp4"}], "video"), wanted, steps, errors)
    table = Encoding({"face": feature}, device=Device(batch=4))(prepared)["face"]
    np.testing.assert_array_equal(table["face_boxes"][0].as_py(), boxes)
    assert table["face_boxes"][1].as_py() is None
    assert table["error"].to_pylist() == [None, lost]
    assert table["face_length"].to_pylist() == [3 if pooling == "none" else 1, 0]
