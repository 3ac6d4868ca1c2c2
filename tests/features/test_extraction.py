"""Every sample in is a row out, with what was drawn and played into its file, or the reason why not."""

import functools
import http.server
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from mmray.config import Feature, StorageConfig
from mmray.decode.isolation import Sandbox
from mmray.features.device import Device
from mmray.features.encoding import Encoding
from mmray.features.fetching import AHEAD
from mmray.features.frames import FramesFeature
from mmray.features.preparing import Preparation
from mmray.features.spectral import MelFeature
from mmray.features.tokens import TokensFeature
from mmray.features.transformer_text import TextFeature
from mmray.storage.filesystem import Storage
from mmray.tables.schemas import feature_schema, sample_schema
from tests.features.joining import joined

RATE_HZ = 16_000
FPS = 10
FRAMES = 20  # of a drawn clip: two seconds
SOURCES = ["video", "audio", "image", "text"]

# A network whose answer is known: the mean colour of a picture, on [-1, 1].
MEAN_COLOUR = """
from torch import nn


def network():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Iterator[dict[str, Feature]]:
    """One feature of each kind that needs no weights; the frames' network is importable meanwhile."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "mean_colour_network.py").write_text(MEAN_COLOUR)
    encoder = "mean_colour_network:network"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield {
            "face": FramesFeature(kind="frames", frames=4, encoder=encoder, size=16),
            "scene": FramesFeature(kind="frames", source="image", encoder=encoder, size=16, dtype="float16"),
            "voice": MelFeature(kind="mel", sample_rate_hz=RATE_HZ, n_mels=40),
            "words": TokensFeature(kind="tokens"),
        }


def grey(frame: int | np.ndarray) -> int | np.ndarray:
    """The level that frame number `frame` is drawn in."""
    return 20 + 10 * frame


def write_clip(path: Path, *, sound: bool = True, options: dict[str, str] | None = None) -> Path:
    """H.264 of FRAMES grey pictures, each in its number's level, and a 1 kHz tone in AAC."""
    with av.open(str(path), "w", options=options or {}) as file:
        video = file.add_stream("libx264", rate=FPS, options={"crf": "10", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = file.add_stream("aac", rate=RATE_HZ, layout="mono") if sound else None
        for number in range(FRAMES):
            picture = np.full((48, 64, 3), grey(number), np.uint8)
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(tone(FRAMES / FPS)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, 0  # a time stamp, so that the encoder's delay is declared
            file.mux(audio.encode(frame))
            file.mux(audio.encode())
    return path


def tone(seconds: float, frequency_hz: float = 1000.0) -> np.ndarray:
    """A sine of amplitude 1/2, float32 [N]."""
    times_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (0.5 * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A folder of whole and of broken files."""
    folder = tmp_path_factory.mktemp("media")
    whole = write_clip(folder / "whole.mp4").read_bytes()
    write_clip(folder / "silent.mp4", sound=False)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "words.mp4").write_text("this is no video\n" * 100)
    (folder / "zero.mp4").touch()
    wavfile.write(folder / "tone.wav", RATE_HZ, tone(1.0))
    not_a_number = tone(1.0)
    not_a_number[RATE_HZ // 2] = np.nan
    wavfile.write(folder / "nan.wav", RATE_HZ, not_a_number)
    Image.new("RGB", (40, 30), (255, 127, 0)).save(folder / "orange.png")
    return folder


def samples_of(rows: list[dict], folder: Path | None = None) -> pa.Table:
    """A sample table of `rows`, with absent columns null; file names are below `folder`."""
    complete = []
    for number, row in enumerate(rows):
        files = {k: str(folder / row[k]) for k in ("video", "audio", "image") if folder and row.get(k)}
        complete.append({"sample_id": f"s{number}", "split": "train", "media_key": "", **row, **files})
    return pa.Table.from_pylist(complete, schema=sample_schema(SOURCES, {}))


def rows_of(features: dict[str, Feature], samples: pa.Table, *, encode_batch: int = 64) -> pa.Table:
    encoding = Encoding(features, device=Device(batch=encode_batch))
    return joined(encoding(Preparation(features, Storage())(samples)))


# ------------------------------------------------------------------------------------ what is in a row


@pytest.mark.parametrize(
    ("start_s", "end_s", "shown"),
    [
        (None, None, [2, 7, 12, 17]),  # floor((i + 1/2) · 20 / 4)
        (0.5, 1.5, [6, 8, 11, 13]),  # on screen at 0.625, 0.875, 1.125, 1.375 s
        (1.6, None, [16, 17, 18, 19]),
        (1.8, 2.0, [18, 19]),  # fewer than asked for: each once
    ],
)
def test_frames_are_the_ones_on_screen_in_the_middle_of_equal_spans(features, media, start_s, end_s, shown):
    face = {"face": features["face"]}
    row = rows_of(
        face, samples_of([{"video": "whole.mp4", "start_s": start_s, "end_s": end_s}], media)
    ).to_pylist()[0]
    expected = (grey(np.array(shown)) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(row["face"], np.stack([expected] * 3, axis=1), atol=4 / 127.5)
    assert row["face_length"] == len(shown)
    assert row["face_start_s"] == pytest.approx(shown[0] / FPS - (start_s or 0), abs=1e-6)
    step_s = (shown[-1] - shown[0]) / (len(shown) - 1) / FPS
    assert row["face_step_s"] == pytest.approx(step_s, abs=1e-6)
    assert row["face_times_s"] == pytest.approx(np.array(shown) / FPS - (start_s or 0), abs=1e-6)
    assert row["errors"] == []


def test_a_picture_is_one_step_at_time_zero(features, media):
    row = rows_of(features, samples_of([{"image": "orange.png"}], media)).to_pylist()[0]
    np.testing.assert_allclose(row["scene"], [[1.0, 127 / 127.5 - 1, -1.0]], atol=1e-3)
    assert (row["scene_length"], row["scene_start_s"], row["scene_step_s"]) == (1, 0.0, 0.0)
    assert row["scene_times_s"] == [0.0]


@pytest.mark.parametrize(("rate_hz", "hop_ms"), [(16_000, 10.0), (22_050, 10.0), (11_025, 7.3)])
def test_a_click_is_in_the_step_of_its_time(tmp_path, rate_hz, hop_ms):
    """Also where a hop is no whole number of samples, and the error would grow with time."""
    sound = np.zeros(rate_hz * 6, np.float32)
    sound[round(5.5 * rate_hz)] = 0.9
    wavfile.write(tmp_path / "click.wav", rate_hz, sound)
    voice: dict[str, Feature] = {"voice": MelFeature(kind="mel", sample_rate_hz=rate_hz, hop_ms=hop_ms)}
    row = rows_of(voice, samples_of([{"audio": "click.wav"}], tmp_path)).to_pylist()[0]
    loudest = np.array(row["voice"]).sum(axis=1).argmax()
    clicked_s = row["voice_start_s"] + loudest * row["voice_step_s"]
    assert clicked_s == pytest.approx(5.5, abs=0.5 * row["voice_step_s"] + 1e-4)
    steps = 6 / row["voice_step_s"]
    assert row["voice_length"] == len(row["voice"]) == int(steps + 1e-6) + 1


def test_sound_is_the_videos_own_where_the_sample_has_none(features, media):
    """The tone is in the mel band whose centre is nearest to it."""
    rows = rows_of(
        features,
        samples_of([{"video": "whole.mp4"}, {"video": "whole.mp4", "audio": "tone.wav"}], media),
    ).to_pylist()
    centres_hz = slaney_centres_hz(40, RATE_HZ / 2)
    for row, seconds in zip(rows, (FRAMES / FPS, 1.0)):
        loudest = np.array(row["voice"])[10:-10].mean(axis=0).argmax()
        assert loudest == np.abs(centres_hz - 1000).argmin()
        assert row["voice_length"] == pytest.approx(
            seconds * 100 + 1, abs=6
        )  # AAC's last packet is padded to 64 ms


def slaney_centres_hz(bands: int, top_hz: float) -> np.ndarray:
    """Centres of mel bands from 0 Hz: linear below 1 kHz (15 mel), logarithmic above (Slaney, 1998)."""
    top_mel = 15 + 27 * np.log(top_hz / 1000) / np.log(6.4)
    mel = np.linspace(0, top_mel, bands + 2)[1:-1]
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def test_noise_follows_the_id_and_not_the_neighbours(media):
    voice: dict[str, Feature] = {"voice": MelFeature(kind="mel", snr_db=0.0)}
    a, b = {"sample_id": "a", "audio": "tone.wav"}, {"sample_id": "b", "audio": "tone.wav"}
    together = rows_of(voice, samples_of([b, a], media))["voice"].to_pylist()
    alone = rows_of(voice, samples_of([a], media))["voice"].to_pylist()
    assert together[1] == alone[0]
    assert together[0] != alone[0]


def test_texts_meet_their_own_rows_again(tmp_path):
    """Vectors of a transformers model, several texts at a time, with gaps between them."""
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "news"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    bert = BertModel(config).eval()
    bert.save_pretrained(tmp_path / "model")
    feature: dict[str, Feature] = {
        "words": TextFeature(kind="transformer_text", model=str(tmp_path / "model"))
    }

    good = ["good news", "bad", "bad bad news"]
    texts = {None: "absent", good[0]: None, good[1]: None, " ": "empty", good[2]: None, "\u200b": "empty"}
    rows = rows_of(feature, samples_of([{"text": text} for text in texts]), encode_batch=2).to_pylist()
    assert [[error["reason"] for error in row["errors"]] for row in rows] == [
        [reason] if reason else [] for reason in texts.values()
    ]
    for text, row in zip(texts, rows):
        if text not in good:
            assert row["words"] is None
            continue
        ids = torch.tensor([[2, *map(vocabulary.index, text.split()), 3]])
        with torch.no_grad():
            expected = bert(ids).last_hidden_state[0].numpy()
        np.testing.assert_allclose(row["words"], expected, atol=1e-5)
        assert (row["words_length"], row["words_start_s"]) == (len(expected), None)


# ------------------------------------------------------------------------------------ what fails

ABSENT = {"face": "absent", "scene": "absent", "voice": "absent", "words": "absent"}
CASES: list[tuple[dict, dict[str, str]]] = [
    ({"video": "whole.mp4", "image": "orange.png", "text": "Don't panic!"}, {}),
    ({}, ABSENT),
    ({"video": "silent.mp4"}, {"voice": "no_audio_stream", "scene": "absent", "words": "absent"}),
    ({"video": "cut.mp4"}, {"face": "unreadable", "voice": "unreadable"}),
    ({"video": "words.mp4"}, {"face": "unreadable", "voice": "unreadable"}),
    ({"video": "zero.mp4"}, {"face": "unreadable", "voice": "unreadable"}),
    ({"video": "none.mp4"}, {"face": "missing_file", "voice": "missing_file"}),
    ({"video": "."}, {"face": "fetch_failed", "voice": "fetch_failed"}),
    ({"video": "tone.wav"}, {"face": "no_video_stream"}),
    ({"video": "whole.mp4", "start_s": 3.0, "end_s": 4.0}, {"face": "bad_segment", "voice": "bad_segment"}),
    ({"video": "whole.mp4", "audio": "nan.wav"}, {"voice": "corrupt"}),
    ({"audio": "tone.wav"}, {"face": "absent"}),
    ({"image": "tone.wav"}, {"scene": "unreadable", "face": "absent", "voice": "absent"}),
    ({"text": "  \n"}, {"words": "empty"}),
    ({"text": "\u200b"}, {"words": "empty"}),
    ({"image": "orange.png", "video": "whole.mp4"}, {"words": "absent"}),
]
STAGES = {"absent": "samples", "missing_file": "fetch", "fetch_failed": "fetch"}


def test_every_sample_is_a_row_and_a_value_or_a_reason_for_each_feature(features, media):
    samples = samples_of([row for row, _ in CASES], media)
    encoding = Encoding(features, device=Device(batch=64))
    tables = encoding(Preparation(features, Storage())(samples))
    for name, shape in encoding.shapes.items():
        assert tables[name].schema == feature_schema(name, shape)
        assert tables[name]["sample_id"].to_pylist() == samples["sample_id"].to_pylist()
    table = joined(tables)
    for row, (given, expected) in zip(table.to_pylist(), CASES):
        reasons = {error["modality"]: error["reason"] for error in row["errors"]}
        assert len(reasons) == len(row["errors"])
        implied = {
            name: "absent"
            for name, feature in features.items()
            if feature.source not in given and not (feature.source == "audio" and "video" in given)
        }
        assert reasons == {**implied, **expected}, given
        for error in row["errors"]:
            assert error["stage"] == STAGES.get(error["reason"], "decode")
        for name in features:
            timed = name != "words" and name not in reasons
            assert (row[name] is None) == (name in reasons), (given, name)
            assert row[f"{name}_length"] == len(row[name] or [])
            assert (row[f"{name}_start_s"] is not None) == timed
            assert (row[f"{name}_step_s"] is not None) == timed
            if name in ("face", "scene"):
                assert len(row[f"{name}_times_s"] or []) == row[f"{name}_length"]


def test_a_file_name_that_is_empty_costs_its_own_modality_only(features):
    """The manifest makes such names null; a table made elsewhere may hold one."""
    rows = rows_of(features, samples_of([{"video": "", "text": "hello"}, {"text": "there"}])).to_pylist()
    assert [row["words"] for row in rows] == [["hello"], ["there"]]
    assert rows[0]["face"] is None


def test_no_damage_ends_a_partition(features, media, tmp_path):
    """Files with bytes overwritten, cut out or cut off: each a value of finite numbers, or a reason."""
    draw = random.Random(0)
    faststart = write_clip(tmp_path / "faststart.mp4", options={"movflags": "faststart"})
    sources = {"video": faststart, "audio": media / "tone.wav", "image": media / "orange.png"}
    rows = []
    for number in range(48):
        kind, path = draw.choice(list(sources.items()))
        data = bytearray(path.read_bytes())
        at = draw.randrange(len(data))
        match number % 4:
            case 0:
                data[at:] = b""
            case 1:
                del data[at : at + draw.randrange(1, 400)]
            case 2:
                for _ in range(draw.randrange(1, 20)):
                    data[draw.randrange(len(data))] = draw.randrange(256)
            case _:
                data[at : at + 64] = draw.randbytes(64)
        broken = tmp_path / f"{number}{path.suffix}"
        broken.write_bytes(data)
        rows.append({kind: str(broken)})
    table = rows_of(features, samples_of(rows))
    assert table["sample_id"].to_pylist() == [f"s{number}" for number in range(len(rows))]
    outcomes: Counter[str] = Counter()
    for row in table.to_pylist():
        reasons = {error["modality"]: error["reason"] for error in row["errors"]}
        for name in ("face", "scene", "voice"):
            assert (row[name] is None) == (name in reasons)
            if row[name] is not None:
                assert np.isfinite(row[name]).all()
            outcomes[reasons.get(name, "decoded")] += 1
    assert outcomes["decoded"] >= 5
    assert sum(outcomes.values()) - outcomes["decoded"] - outcomes["absent"] >= 20


# ------------------------------------------------------------------------------------ where it runs


def same(one: pa.Table, other: pa.Table) -> bool:
    """Equal tables, and in them the same bits."""
    return one.combine_chunks().equals(other.combine_chunks(), check_metadata=True)


@pytest.mark.parametrize("encode_batch", [1, 3])
def test_slices_and_batches_change_nothing(features, media, encode_batch):
    samples = samples_of([row for row, _ in CASES], media)
    whole = rows_of(features, samples)
    encoding = Encoding(features, device=Device(batch=encode_batch))
    for slice_bytes in (1, 20_000, 10**9):
        slices = Preparation(features, Storage()).slices(samples, slice_bytes=slice_bytes)
        assert same(pa.concat_tables(joined(encoding(prepared)) for prepared in slices), whole)


def test_a_sandbox_changes_nothing(features, media):
    """The same bits and the same reasons, decoded in this process or in a child."""
    samples = samples_of([row for row, _ in CASES], media)
    sandbox = Sandbox(timeout_s=60, memory_mb=2048)
    here, there = (Preparation(features, Storage(), sandbox=way)(samples) for way in (None, sandbox))
    sandbox.close()
    assert there.errors == here.errors
    for name in features:
        for one, other in zip(there.steps[name], here.steps[name], strict=True):
            np.testing.assert_equal(one, other)


def test_no_samples_are_no_rows(features):
    none = samples_of([])
    prepared = Preparation(features, Storage())(none)
    made = Encoding(features, device=Device(batch=64))(prepared)
    assert {table.num_rows for table in made.values()} == {0}
    assert list(Preparation(features, Storage()).slices(none)) == []


# ------------------------------------------------------------------------------------ fetching


@dataclass
class Bucket:
    """A folder served as a public S3 bucket, and what was asked of it."""

    endpoint_url: str
    scratch: Path
    """Where the process puts temporary copies."""
    gets: Counter[str] = field(default_factory=Counter)
    copies: list[int] = field(default_factory=list)
    """Temporary copies on disk at each request."""

    def left(self) -> list[str]:
        """The temporary copies on disk now."""
        return [path.name for path in self.scratch.glob("mmray-*/process-*/*") if path.name != ".lock"]

    @property
    def storage(self) -> Storage:
        return Storage(StorageConfig(endpoint_url=self.endpoint_url, anonymous=True, max_attempts=1))


@pytest.fixture
def bucket(media, tmp_path, monkeypatch) -> Iterator[Bucket]:
    """A GET of S3 is one of HTTP: a plain server of files answers it and counts."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            served.gets[os.path.basename(self.path)] += 1
            served.copies.append(len(served.left()))
            super().do_GET()

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

    handler = functools.partial(Handler, directory=str(media.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        served = Bucket(f"http://127.0.0.1:{server.server_port}", scratch)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("slice_bytes", [1, 10**9])
def test_a_shared_file_is_fetched_once_and_dropped_after_its_last_sample(
    features, media, bucket, slice_bytes
):
    """Two features read it for each of three utterances, in several slices, with another file between."""

    def samples_at(folder: str) -> pa.Table:
        utterances = [
            {"video": f"{folder}/whole.mp4", "start_s": n / 2, "end_s": (n + 1) / 2} for n in range(3)
        ]
        others = [
            {"audio": f"{folder}/tone.wav"},
            {"image": f"{folder}/orange.png"},
            {"video": f"{folder}/silent.mp4"},
        ]
        return samples_of([utterances[0], others[0], *utterances[1:], *others[1:]])

    samples = samples_at(f"s3://{media.name}")
    slices = list(Preparation(features, bucket.storage).slices(samples, slice_bytes=slice_bytes))
    assert bucket.gets == {"whole.mp4": 1, "tone.wav": 1, "orange.png": 1, "silent.mp4": 1}
    # A request finds the copy it will fill, those that lie ready, and what a later sample still needs.
    assert max(bucket.copies) <= AHEAD + 1
    assert bucket.left() == []

    encoding = Encoding(features, device=Device(batch=64))
    assert same(
        pa.concat_tables(joined(encoding(each)) for each in slices), rows_of(features, samples_at(str(media)))
    )


def test_copies_are_removed_whatever_ends_the_work(features, media, bucket):
    """A fault that is nobody's sample's escapes, so that no shorter table is taken for a whole one."""

    class Defect(Storage):
        def media(self, uri: str):
            if uri == "defect":
                assert bucket.left()
                raise ZeroDivisionError
            return super().media(uri)

    video = {"video": f"s3://{media.name}/whole.mp4"}
    samples = samples_of([video, {"video": "defect"}, video])
    # What is caught holds the frames of the call, so no garbage collection helps.
    with pytest.raises(ZeroDivisionError) as caught:
        Preparation(features, Defect(bucket.storage.config))(samples)
    assert caught.tb is not None
    assert bucket.left() == []

    slices = Preparation(features, bucket.storage).slices(samples_of([video, video]), slice_bytes=1)
    next(slices)
    assert len(bucket.left()) == 1
    slices.close()
    assert bucket.left() == []


def test_only_the_rows_asked_for_are_decoded(features, media):
    """A feature that is there already is not made again, and a file that nothing needs is not fetched."""
    gone = {"video": "nowhere.mp4", "text": "one two"}
    samples = samples_of([{"video": "whole.mp4"}, gone, {"video": "whole.mp4"}], media)
    wanted = {name: [False] * 3 for name in features}
    wanted |= {"voice": [True, False, False], "words": [False, True, False]}
    preparation = Preparation(features, Storage())
    prepared = preparation(samples, wanted)
    made = Encoding(features, device=Device(batch=64))(prepared)
    rows = {name: table["sample_id"].to_pylist() for name, table in made.items() if table.num_rows}
    assert rows == {"voice": ["s0"], "words": ["s1"]}
    assert made["voice"]["error"].to_pylist() == made["words"]["error"].to_pylist() == [None]
    assert prepared.fetched_bytes == (media / "whole.mp4").stat().st_size


def test_the_next_files_are_fetched_while_this_one_is_decoded(features, media, bucket, tmp_path):
    """So many at most: the decoder that stands still is not overrun."""
    names = [f"{number}.png" for number in range(AHEAD + 4)]
    for name in names:
        shutil.copy(media / "orange.png", media / name)
    samples = samples_of([{"image": f"s3://{media.name}/{name}"} for name in names])
    slices = Preparation({"scene": features["scene"]}, bucket.storage).slices(samples, slice_bytes=1)
    assert next(slices).errors == {"scene": [None]}
    deadline = time.monotonic() + 60
    while len(bucket.gets) < AHEAD + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(bucket.gets) == set(names[: AHEAD + 1]), "the first, and those after it"
    assert [fault for prepared in slices for fault in prepared.errors["scene"]] == [None] * (len(names) - 1)
    assert set(bucket.gets.values()) == {1}
    assert bucket.left() == []
