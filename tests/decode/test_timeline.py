"""What a player shows and plays at a time is what is read there, whatever the file's stamps are like.

The files are made here; the right pictures are those drawn at that time, the right sound is what FFmpeg's
command line plays from the recording's beginning.
"""

import struct
import time

import av
import numpy as np
import pytest

from mmray.decode.video import decode_frames
from mmray.errors import MediaError
from tests.decode.making import (
    FPS,
    H264,
    RATE_HZ,
    RAW,
    SIDE,
    SQUARE,
    difference,
    evenly,
    ffmpeg,
    heard,
    melody,
    near,
    numbered,
    numbers_in,
    played,
    raw,
    shown_numbers,
    write_wav,
)

GAP = "asetpts='if(lt(T,4),PTS,PTS+0.7/TB)'"
"""0.7 s of time stamps are left out at 4 s."""


def assert_whole_and_parts(
    path, expected: np.ndarray, tolerance: float, cuts=((2.3, 4.1), (5.37, 8.2))
) -> None:
    whole = heard(path)
    assert abs(len(whole) - len(expected)) <= 0.06 * RATE_HZ
    assert difference(whole, expected) < tolerance
    for start_s, end_s in cuts:
        part = whole[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
        assert difference(heard(path, start_s, end_s), part) < 0.05


# ------------------------------------------------------------------------------------ sound


@pytest.mark.parametrize(
    ("container", "codec", "tolerance"),
    [
        ("mkv", ("pcm_s16le",), 0.05),
        ("mka", ("flac",), 0.05),
        ("mkv", ("libmp3lame",), 0.05),
        ("m4a", ("aac",), 0.05),
        ("ts", ("aac",), 0.05),
        ("mpg", ("mp2",), 0.05),
        ("flv", ("aac", "-ar", 44_100), 0.05),
        ("ogg", ("libvorbis",), 0.05),
    ],
)
def test_time_that_stamps_leave_out_is_silence(tmp_path, container, codec, tolerance):
    wav = write_wav(tmp_path / "sound.wav", melody(9))
    path = tmp_path / f"gap.{container}"
    ffmpeg("-i", wav, "-af", GAP, "-c:a", *codec, path)
    expected = played(path)
    assert len(expected) > 9.6 * RATE_HZ
    assert_whole_and_parts(path, expected, tolerance)


def test_a_gap_costs_nothing_but_its_time(tmp_path):
    """The same without FFmpeg's opinion: PCM in Matroska holds the very samples."""
    sound = melody(9)
    path = tmp_path / "gap.mkv"
    ffmpeg("-i", write_wav(tmp_path / "sound.wav", sound), "-af", GAP, "-c:a", "pcm_s16le", path)
    at = int(np.ceil(4 * RATE_HZ / 1024)) * 1024  # stamps belong to FFmpeg's blocks of samples
    found = heard(path)
    silent = np.flatnonzero(np.convolve(np.abs(found) < 1e-6, np.ones(4000), "valid") == 4000)
    assert abs(silent[0] - at) <= 1100
    assert abs(silent[-1] + 4000 - silent[0] - 0.7 * RATE_HZ) <= 40
    assert abs(len(found) - 9.7 * RATE_HZ) <= 40


@pytest.mark.parametrize("container", ["mkv", "webm", "mp4", "mov", "ts", "flv"])
def test_a_track_that_begins_later(tmp_path, container):
    sound, numbers = melody(4), list(range(100))
    wav, video = write_wav(tmp_path / "s.wav", sound), tmp_path / "v.mp4"
    ffmpeg(*RAW, *H264, video, data=raw(numbers))
    codecs = (
        ("-c:v", "libvpx", "-b:v", "2M", "-c:a", "libvorbis") if container == "webm" else ("-c:v", "copy")
    )
    later_sound, later_video = tmp_path / f"sound.{container}", tmp_path / f"video.{container}"
    offset = ("-itsoffset", 1.5)
    ffmpeg("-i", video, *offset, "-i", wav, "-map", "0:v", "-map", "1:a", *codecs, "-ar", 44_100, later_sound)
    ffmpeg(*offset, "-i", video, "-i", wav, "-map", "0:v", "-map", "1:a", *codecs, "-ar", 44_100, later_video)
    assert abs(len(heard(later_sound)) - 5.5 * RATE_HZ) < 0.1 * RATE_HZ
    if container not in ("ts", "flv"):  # which begin with the codec's delay
        assert_whole_and_parts(later_sound, played(later_sound), 0.1, cuts=((2.0, 4.0),))
    assert shown_numbers(later_video, 10) == evenly(numbers, 10)
    assert near(shown_numbers(later_video, 4, 2.5, 3.5), evenly(list(range(25, 50)), 4))


@pytest.mark.parametrize("later_s", [0.0, 1.5])
def test_opus_in_matroska_is_where_it_was(tmp_path, later_s):
    """FFmpeg 5 wrote it 6.5 ms early beside other streams."""
    sound, path = melody(4), tmp_path / "late.mkv"
    wav = write_wav(tmp_path / "s.wav", melody(4, 48_000), 48_000)
    streams = ("-map", "0:v", "-map", "1:a")
    picture = ("-f", "lavfi", "-i", "color=s=64x64:r=25:d=6")
    ffmpeg(
        *picture, "-itsoffset", later_s, "-i", wav, *streams, *H264, "-c:a", "libopus", "-b:a", "96k", path
    )
    expected = np.concatenate([np.zeros(round(later_s * RATE_HZ), np.float32), sound])
    found = heard(path)[100:]  # to 1 ms, as Matroska's stamps are
    assert min(difference(found, expected[100 + early :]) for early in range(-16, 17)) < 0.3
    part = heard(path, 2.1, 3.3)
    assert difference(part, found[round(2.1 * RATE_HZ) - 100 :][: len(part)]) < 0.05


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("wav", ("adpcm_ima_wav", "-ar", 22_050)),
        ("wav", ("adpcm_ms",)),
        ("wav", ("g722",)),
        ("wav", ("pcm_s16le",)),
        ("aiff", ("adpcm_ima_qt", "-ar", 44_100)),
        ("flv", ("adpcm_swf", "-ar", 22_050)),
        ("mp3", ("libmp3lame", "-q:a", 3)),
        ("mp3", ("libmp3lame", "-q:a", 3, "-write_xing", 0)),
        ("aac", ("aac",)),
        ("ac3", ("ac3", "-ar", 48_000)),
        ("flac", ("flac",)),
        ("opus", ("libopus",)),
        ("mka", ("libvorbis",)),
        ("m4a", ("aac",)),
        ("ts", ("mp2",)),
    ],
)
def test_a_part_is_a_cut_of_the_whole(tmp_path, suffix, codec):
    """Wherever the container lands when it is asked to go there."""
    path = tmp_path / f"sound.{suffix}"
    ffmpeg("-i", write_wav(tmp_path / "s.wav", melody(20)), "-c:a", *codec, path)
    assert_whole_and_parts(path, played(path), 0.1, cuts=((0.7, 3.1), (13.37, 15.2), (17.9, 19.5)))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFDB, 0x80000000, 0xFFFFF000])
def test_a_size_that_means_unknown(tmp_path, size):
    sound = melody(3)
    content = bytearray(write_wav(tmp_path / "s.wav", sound).read_bytes())
    content[4:8], content[40:44] = struct.pack("<II", size, size)[:4], struct.pack("<I", size)
    path = tmp_path / "piped.wav"
    path.write_bytes(content)
    assert_whole_and_parts(path, sound, 1e-3, cuts=((1.0, 2.0),))


def test_a_size_that_is_known_is_held_to(tmp_path):
    content = write_wav(tmp_path / "s.wav", melody(3)).read_bytes()
    path = tmp_path / "cut.wav"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match="short_audio"):
        heard(path)


@pytest.mark.parametrize("content", ["quiet then loud", "loud then quiet"])
def test_a_length_that_is_guessed_from_a_bit_rate(tmp_path, content):
    loud = melody(5) + 0.2 * np.random.default_rng(0).standard_normal(5 * RATE_HZ).astype(np.float32)
    parts = [np.zeros(3 * RATE_HZ, np.float32), loud.clip(-1, 1)]
    wav = write_wav(tmp_path / "s.wav", np.concatenate(parts if content.startswith("quiet") else parts[::-1]))
    path = tmp_path / "sound.mp3"
    ffmpeg("-i", wav, "-c:a", "libmp3lame", "-q:a", 2, "-write_xing", 0, path)
    assert_whole_and_parts(path, played(path), 0.1, cuts=((3.5, 4.7),))


@pytest.mark.parametrize("codec", ["libvorbis", "libopus"])
def test_ogg_files_joined(tmp_path, codec):
    path, sounds = tmp_path / "joined.ogg", [melody(3, seed=seed) for seed in range(3)]
    for number, sound in enumerate(sounds):
        one = tmp_path / f"{number}.ogg"
        ffmpeg("-i", write_wav(tmp_path / "s.wav", sound), "-c:a", codec, "-b:a", "96k", one)
        path.write_bytes((path.read_bytes() if number else b"") + one.read_bytes())
    assert_whole_and_parts(path, np.concatenate(sounds), 0.5, cuts=((4.0, 5.5), (6.5, 8.0)))


# ------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("cut", [(0.76, None), (1.3, 2.0), (2.9, None), (3.21, None)])
def test_cuts_without_encoding(tmp_path, container, cut):
    """What an edit list hides is not shown, and not missed."""
    whole, path = tmp_path / "whole.mp4", tmp_path / f"cut.{container}"
    options = ("-x264-params", "keyint=25:scenecut=0")
    ffmpeg(*RAW, "-f", "lavfi", "-i", "sine", "-shortest", *H264, *options, whole, data=raw(range(150)))
    start_s, length_s = cut
    ffmpeg("-ss", start_s, *(() if length_s is None else ("-t", length_s)), "-i", whole, "-c", "copy", path)
    steady = ("-vf", f"fps={FPS}:round=down", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    shown = np.frombuffer(ffmpeg("-i", path, *steady), np.uint8).reshape(-1, SIDE, SIDE, 3)
    assert near(shown_numbers(path, 6), evenly(numbers_in(shown), 6))


@pytest.mark.parametrize("codec", [("mpeg4", "-q:v", 2), ("mjpeg", "-q:v", 2), ("ffv1",)])
def test_a_picture_stays_where_frames_were_dropped(tmp_path, codec):
    path = tmp_path / "dropped.avi"
    select = ("-vf", "select='not(between(n,20,39))'", "-vsync", "vfr")
    ffmpeg(*RAW, *select, "-c:v", *codec, "-g", 12, "-pix_fmt", "yuvj420p", path, data=raw(range(96)))
    numbers = [number if not 20 <= number < 40 else 19 for number in range(96)]
    assert shown_numbers(path, 4) == evenly(numbers, 4)
    assert shown_numbers(path, 4, 2.0, 3.0) == evenly(list(range(50, 75)), 4)
    assert shown_numbers(path, 1, 1.2, 1.4) == [19]


def set_matrix(path, matrix) -> None:
    """The display matrix of an mp4's track (ISO/IEC 14496-12, `tkhd`), 9 numbers."""
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 4 + 24 + 16
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


ONE, UNIT = 1 << 16, 1 << 30
TURNS = {
    "as it is": ((ONE, 0, 0, ONE), lambda p: p),
    "left-right": ((-ONE, 0, 0, ONE), lambda p: p[:, ::-1]),
    "top-bottom": ((ONE, 0, 0, -ONE), lambda p: p[::-1]),
    "transposed": ((0, ONE, ONE, 0), lambda p: p.transpose(1, 0, 2)),
    "across": ((0, -ONE, -ONE, 0), lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
    "a quarter": ((0, ONE, -ONE, 0), lambda p: np.rot90(p, -1)),
    "three quarters": ((0, -ONE, ONE, 0), lambda p: np.rot90(p, 1)),
    "half": ((-ONE, 0, 0, -ONE), lambda p: p[::-1, ::-1]),
}


@pytest.mark.parametrize("turn", TURNS)
def test_pictures_are_turned_and_mirrored(tmp_path, turn, decoder):
    (a, b, c, d), turned = TURNS[turn]
    path = tmp_path / "turned.mp4"
    ffmpeg(*RAW, *H264, path, data=raw([77] * 12))
    set_matrix(path, (a, b, 0, c, d, 0, 0, 0, UNIT))
    asked = {"sampling": "uniform", "frames": 1, "fps": None, "start_s": None, "end_s": None}
    pixels = decode_frames(str(path), **asked, resize=SQUARE, decoder=decoder).pixels[0]
    assert np.abs(pixels.astype(int) - turned(numbered(77))).mean() < 12


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("ts", (*H264, "-g", 12, "-c:a", "aac")),
        ("mpg", ("-c:v", "mpeg2video", "-q:v", 2, "-g", 12, "-c:a", "mp2")),
        ("m2ts", (*H264, "-g", 12, "-c:a", "ac3")),
        ("mkv", (*H264, "-g", 12, "-c:a", "aac")),
    ],
)
def test_files_joined_whose_stamps_start_again(tmp_path, suffix, codec):
    path, sounds = tmp_path / f"joined.{suffix}", []
    for part in (0, 1):
        one = tmp_path / f"{part}.{suffix}"
        wav = write_wav(tmp_path / "s.wav", melody(3.2, seed=part))
        options = ("-map", "0:v", "-map", "1:a", "-pix_fmt", "yuv420p", "-ar", 48_000)
        ffmpeg(*RAW, "-i", wav, *options, *codec, one, data=raw(range(80 * part, 80 * part + 80)))
        path.write_bytes((path.read_bytes() if part else b"") + one.read_bytes())
        sounds.append(played(one))
    assert near(shown_numbers(path, 10), evenly(list(range(160)), 10))
    sound = heard(path)
    assert difference(sound, sounds[0]) < 0.5


@pytest.mark.parametrize("suffix", ["wma", "asf", "flv"])
@pytest.mark.parametrize("seconds", [0.3, 0.5, 2.0])
def test_a_short_file_with_an_index_behind_its_sound_is_whole(tmp_path, suffix, seconds):
    path = tmp_path / f"short.{suffix}"
    ffmpeg("-i", write_wav(tmp_path / "s.wav", melody(seconds)), "-ar", 44_100, path)
    assert difference(heard(path), played(path)) < 0.5


@pytest.mark.parametrize(("suffix", "codec"), [("flv", H264), ("wmv", ())])
def test_joined_files_of_which_only_the_first_is_read_are_told(tmp_path, suffix, codec):
    path = tmp_path / f"joined.{suffix}"
    ffmpeg(*RAW, "-f", "lavfi", "-i", "sine", "-shortest", *codec, "-ar", 44_100, path, data=raw(range(50)))
    path.write_bytes(path.read_bytes() * 2)
    for read in (lambda: shown_numbers(path, 4), lambda: heard(path)):
        with pytest.raises(MediaError, match=r"corrupt: after 2.* s: .*were files joined"):
            read()


@pytest.mark.parametrize(
    ("suffix", "codec"), [("webm", ("libvpx", "-b:v", "2M")), ("mkv", ("libx264",)), ("ts", ("libx264",))]
)
def test_nothing_is_shown_before_the_first_key_frame(tmp_path, suffix, codec):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"late.{suffix}"
    keys = ("-g", 12, "-keyint_min", 12, "-sc_threshold", 0, "-pix_fmt", "yuv420p")
    ffmpeg(*RAW, "-c:v", *codec, *keys, "-bf", 0, whole, data=raw(range(60)))
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][5:]:
            packet.stream = copy
            target.mux(packet)
    assert shown_numbers(path, 6) == evenly(list(range(12, 60)), 6)


def test_a_late_part_of_a_program_stream_costs_no_more_than_an_early_one(tmp_path):
    path = tmp_path / "long.mpg"
    numbers = [number % 256 for number in range(5000)]
    ffmpeg(*RAW, "-c:v", "mpeg2video", "-q:v", 8, "-g", 12, "-bf", 2, path, data=raw(numbers))
    assert shown_numbers(path, 4, 190.0, 191.0) == evenly(numbers[190 * FPS : 191 * FPS], 4)
    spent = []
    for start_s in (5.0, 195.0):
        begin = time.process_time()
        assert shown_numbers(path, 4, start_s, start_s + 1) == evenly(numbers[int(start_s) * FPS :][:FPS], 4)
        spent.append(time.process_time() - begin)
    assert spent[1] < 5 * spent[0] + 0.2
