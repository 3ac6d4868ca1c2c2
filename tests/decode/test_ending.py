"""Files that end too early, and files that do not end where they should: neither passes in silence."""

import numpy as np
import pytest

from mmray.errors import MediaError
from tests.decode.making import (
    H264,
    RATE_HZ,
    RAW,
    difference,
    evenly,
    ffmpeg,
    heard,
    melody,
    near,
    played,
    raw,
    shown_numbers,
    write_wav,
)

MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2")


def cut_off(path):
    """The same file without its last two fifths, which end in the midst of something."""
    content = path.read_bytes()
    cut = path.with_name(f"cut{path.suffix}")
    cut.write_bytes(content[: int(len(content) * 0.6) + 3])
    return cut


def twice(path):
    """Two of them, one after the other."""
    joined = path.with_name(f"joined{path.suffix}")
    joined.write_bytes(2 * path.read_bytes())
    return joined


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.ac3", ()),
        ("a.eac3", ()),
        ("a.mp2", ()),
        ("a.mp3", ("-write_xing", 0)),
        ("a.aac", ("-f", "adts")),
        ("a.latm", ("-c:a", "aac", "-f", "latm")),
        ("a.rm", ("-c:a", "real_144", "-ar", 8000)),
        ("a.ra", ("-c:a", "ac3", "-f", "rm")),
        ("a.mpg", ("-c:a", "mp2")),
        ("a.ts", ("-c:a", "aac")),
        ("a.nut", ("-c:a", "mp2")),
        ("a.avi", ("-c:a", "libmp3lame")),
        ("a.wma", ()),
        ("a.flv", ("-c:a", "aac", "-ar", 44_100)),
    ],
)
def test_sound_that_breaks_off_is_told(tmp_path, name, codec):
    path = tmp_path / name
    ffmpeg("-i", write_wav(tmp_path / "a.wav", melody(4)), *codec, path)
    whole = heard(path)
    assert abs(len(whole) - 4 * RATE_HZ) < 0.25 * RATE_HZ
    with pytest.raises(MediaError) as told:
        heard(cut_off(path))
    assert told.value.reason in ("short_audio", "corrupt")
    assert difference(heard(cut_off(path), 0.5, 1.5), whole[RATE_HZ // 2 : 3 * RATE_HZ // 2]) < 0.05


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("v.ts", H264),
        ("v.m2ts", H264),
        ("v.mpg", MPEG2),
        ("v.vob", MPEG2),
        ("v.avi", ("-c:v", "mpeg4", "-q:v", "2")),
        ("v.wmv", ("-c:v", "wmv2", "-q:v", "2")),
        ("v.rm", ("-c:v", "rv10", "-q:v", "2")),
        ("v.ogv", ("-c:v", "libtheora", "-q:v", "10")),
        ("v.nut", H264),
        ("v.ivf", ("-c:v", "libvpx", "-b:v", "1M")),
        ("v.y4m", ("-pix_fmt", "yuv420p")),
        ("v.gif", ()),
        ("v.mjpeg", ("-c:v", "mjpeg", "-q:v", "2")),
        ("v.swf", ("-c:v", "flv1", "-q:v", "2")),
    ],
)
def test_pictures_that_break_off_are_told(tmp_path, name, codec):
    path = tmp_path / name
    ffmpeg(*RAW, "-g", 12, *codec, path, data=raw(range(100)))
    assert near(shown_numbers(path, 10), evenly(list(range(100)), 10))
    with pytest.raises(MediaError) as told:
        shown_numbers(cut_off(path), 10)
    assert told.value.reason in ("short_video", "corrupt")


@pytest.mark.parametrize(
    "name", ["a.wav", "a.m4a", "a.flac", "a.caf", "a.aiff", "a.nut", "a.tta", "a.rm", "a.wma"]
)
def test_sound_files_that_cannot_be_joined_are_refused(tmp_path, name):
    codec = {"a.nut": ("-c:a", "flac"), "a.rm": ("-c:a", "ac3")}.get(name, ())
    path = tmp_path / name
    ffmpeg("-i", write_wav(tmp_path / "plain.wav", melody(4)), *codec, path)
    heard(path)
    with pytest.raises(MediaError, match=r"bytes follow .* were files joined") as told:
        heard(twice(path))
    assert told.value.reason == "corrupt"


@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "v.nut", "v.flv", "v.ivf"])
def test_video_files_that_cannot_be_joined_are_refused(tmp_path, name):
    path = tmp_path / name
    ffmpeg(*RAW, *(H264 if name != "v.ivf" else ("-c:v", "libvpx")), path, data=raw(range(50)))
    with pytest.raises(MediaError, match=r"bytes follow .* were files joined"):
        shown_numbers(twice(path), 10)


@pytest.mark.parametrize("tags", [("-id3v2_version", 4), ("-id3v2_version", 0, "-write_apetag", 1)])
def test_mp3_files_joined_are_played_through_their_tags(tmp_path, tags):
    path = tmp_path / "a.mp3"
    ffmpeg("-i", write_wav(tmp_path / "a.wav", melody(4)), "-metadata", "title=" + 40 * "long ", *tags, path)
    joined = twice(path)
    expected = played(joined)
    assert len(expected) > 8 * RATE_HZ
    assert difference(heard(joined), expected) < 0.1
    part = heard(joined, 5.0, 6.0)
    assert difference(part, heard(joined)[5 * RATE_HZ : 6 * RATE_HZ]) < 0.05


def test_bytes_after_the_end_that_are_no_file_do_no_harm(tmp_path):
    path = write_wav(tmp_path / "a.wav", melody(1))
    whole = heard(path)
    path.write_bytes(path.read_bytes() + b"LIST\x10\0\0\0INFO and so on RIFF")
    np.testing.assert_array_equal(heard(path), whole)
