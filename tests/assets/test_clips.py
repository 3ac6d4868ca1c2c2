"""The demo's data set, read back with PyAV, and the limits its design sets to each modality."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import av
import numpy as np
import pytest
from av.error import InvalidDataError

from mmray.assets.clips import DAMAGE, EMOTIONS, plan_clips, write_clips
from mmray.config import load_config
from mmray.samples.index import make_index
from mmray.storage.filesystem import Storage

CLIPS, SEED = 160, 3
CONFIG = Path(__file__).parents[2] / "mmray" / "assets" / "demo.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the clips go; files of an older set lie there."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "clips").mkdir()
    for clip in plan_clips(CLIPS, SEED):
        (folder / clip.video).write_bytes(b"older")
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return write_clips(str(folder), clips=CLIPS, seed=SEED)


@pytest.fixture(scope="module")
def planned():
    """Many clips, not written: what the design says, without the luck of a few."""
    return plan_clips(8000, seed=1)


def decoded(path):
    """Pictures [T, H, W, 3] uint8 and sound [S] float32, all there are."""
    with av.open(str(path)) as file:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    with av.open(str(path)) as file:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    return pictures, sound


def length_s(stream):
    return float(stream.duration * stream.time_base)


def whole(rows):
    return [row for row in rows if row["damage"] is None]


def test_every_whole_clip_is_h264_and_aac_of_its_planned_length(folder, rows):
    plan = {clip.sample_id: clip for clip in plan_clips(CLIPS, SEED)}
    for row in whole(rows):
        with av.open(str(folder / row["video"])) as file:
            video, audio = file.streams.video[0], file.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height, audio.rate, audio.channels) == (128, 96, 16_000, 1)
            assert video.frames == plan[row["sample_id"]].frames
            assert 1.5 <= length_s(video) <= 2.0
            # Two AAC frames of 1024 samples, 128 ms: the encoder's priming and its last, padded frame.
            assert length_s(audio) == pytest.approx(video.frames / 12, abs=0.128)


def test_damage_is_what_the_rows_declare_and_nothing_else(folder, rows):
    def streams(row):
        try:
            with av.open(str(folder / row["video"])) as file:
                return {stream.type for stream in file.streams}
        except FileNotFoundError:
            return "missing_file"
        except InvalidDataError:
            return "unreadable"

    found = {row["sample_id"]: streams(row) for row in rows}
    expected = {
        None: {"video", "audio"},
        "truncated": "unreadable",
        "no_audio": {"video"},
        "missing": "missing_file",
        "not_media": "unreadable",
    }
    assert found == {row["sample_id"]: expected[row["damage"]] for row in rows}
    assert Counter(row["damage"] for row in rows if row["damage"]) == dict.fromkeys(DAMAGE, 1)
    assert {row["split"] for row in rows if row["damage"]} == {"train", "val", "test"}


def test_a_truncated_clip_is_the_beginning_of_a_real_one(folder, rows):
    row = next(row for row in rows if row["damage"] == "truncated")
    data = (folder / row["video"]).read_bytes()
    assert data[4:8] == b"ftyp"
    assert b"moov" not in data


def test_the_manifest_has_every_row_and_no_hint_of_damage(folder, rows):
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert lines == [{key: value for key, value in row.items() if key != "damage"} for row in rows]
    assert len({line["sample_id"] for line in lines}) == CLIPS
    missing = {row["video"] for row in rows if row["damage"] == "missing"}
    files = {str(path.relative_to(folder)) for path in folder.glob("clips/*")}
    assert files == {row["video"] for row in rows} - missing


def test_the_same_seed_writes_the_same_clips_and_another_seed_others(tmp_path):
    a, b, other = (str(tmp_path / name) for name in "abc")
    rows = write_clips(a, clips=8, seed=5)
    assert write_clips(b, clips=8, seed=5) == rows
    assert write_clips(other, clips=8, seed=6) != rows
    assert Path(a, "manifest.jsonl").read_bytes() == Path(b, "manifest.jsonl").read_bytes()
    for row in rows:
        (pictures_a, sound_a), (pictures_b, sound_b) = (
            decoded(f"{a}/{row['video']}"),
            decoded(f"{b}/{row['video']}"),
        )
        np.testing.assert_array_equal(pictures_a, pictures_b)
        np.testing.assert_array_equal(sound_a, sound_b)


def test_classes_are_balanced_in_every_split():
    counts = Counter((clip.split, clip.emotion) for clip in plan_clips(240, seed=9))
    sizes = {"train": 36, "val": 9, "test": 15}
    assert counts == {(split, emotion): n for split, n in sizes.items() for emotion in EMOTIONS}


def test_sight_and_sound_are_in_the_files(folder, rows):
    """Tint against `warmth` from a corner pixel, tone against `pitch_hz` from a Fourier transform."""
    plan = {clip.sample_id: clip for clip in plan_clips(CLIPS, SEED)}
    tints, warmths = [], []
    for row in whole(rows)[:24]:
        clip = plan[row["sample_id"]]
        pictures, sound = decoded(folder / row["video"])
        corner = pictures[:, :6, :6].astype(float).mean((0, 1, 2))
        tints.append(corner[0] - corner[2])
        warmths.append(clip.warmth)
        spectrum = np.abs(np.fft.rfft(sound))
        peak_hz = np.fft.rfftfreq(len(sound), 1 / 16_000)[spectrum.argmax()]
        # Pulses spread a tone over neighbours one pulse rate apart.
        assert abs(peak_hz - clip.pitch_hz) <= 2 * clip.rate_hz
    assert np.corrcoef(tints, warmths)[0, 1] > 0.8


def majority_share(clips, key):
    """Accuracy of the best possible guess from `key` alone: the most frequent class for each value."""
    classes = defaultdict(Counter)
    for clip in clips:
        classes[key(clip)][clip.emotion] += 1
    return sum(max(counts.values()) for counts in classes.values()) / len(clips)


def test_no_text_tells_the_emotion(planned):
    """0.9/2 + 0.1/4 = 47.5 % in expectation; the rest is the luck of 27 clips a text."""
    classes = defaultdict(set)
    for clip in planned:
        classes[clip.text].add(clip.emotion)
    assert min(len(emotions) for emotions in classes.values()) >= 2
    assert 0.45 < majority_share(planned, lambda clip: clip.text) < 0.60


def test_sight_or_sound_is_worth_half_and_both_nearly_all(planned):
    """In 6.75 % of the clips each leaves its part open: 1/2 · 0.966 alone, 0.865 + 0.135/2 together."""

    def pleasant(clip):
        return clip.smile > 0

    def aroused(clip):
        return np.log(clip.rate_hz / 3.5) / 0.15 + np.log(clip.pitch_hz / 350) / 0.2 > 0

    assert majority_share(planned, pleasant) == pytest.approx(0.483, abs=0.02)
    assert majority_share(planned, aroused) == pytest.approx(0.483, abs=0.02)
    both = majority_share(planned, lambda clip: (pleasant(clip), aroused(clip)))
    assert both == pytest.approx(0.9325, abs=0.015)


def test_words_settle_what_sight_or_sound_leaves_open(planned):
    """From all three the best guess is nearly sure: see what the words say, else look and listen."""
    hints = {
        "went well": (1, None),
        "good news": (1, None),
        "went wrong": (-1, None),
        "bad news": (-1, None),
        "wide awake": (None, 1),
        "hurry": (None, 1),
        "half asleep": (None, -1),
        "time to rest": (None, -1),
    }
    right = 0
    for clip in planned:
        valence, arousal = next((v for words, v in hints.items() if words in clip.text), (None, None))
        valence = valence or np.sign(clip.smile)
        arousal = arousal or np.sign(np.log(clip.rate_hz / 3.5))
        right += EMOTIONS[clip.emotion] == (valence, arousal)
    assert right / len(planned) > 0.98


def test_the_demo_config_reads_the_manifest(folder, rows, tmp_path):
    config = load_config(CONFIG, [f"samples.manifest={folder}/manifest.jsonl", f"output={tmp_path}"])
    assert config.targets["emotion"].model_dump()["classes"] == list(EMOTIONS)
    plan = make_index(config, Storage(), str(tmp_path / "samples"))
    assert plan.rows == len(rows)
    assert plan.splits == dict(Counter(row["split"] for row in rows))
