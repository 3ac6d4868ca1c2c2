"""What a file can name or start: nothing. Scripts, playlists, pipes, devices and numbers that are none."""

import os
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmray.decode.audio import decode_audio
from mmray.decode.image import decode_image
from mmray.decode.video import decode_frames
from mmray.errors import MediaError
from mmray.storage.filesystem import Storage
from tests.decode.making import H264, RATE_HZ, RAW, SQUARE, ffmpeg, melody, raw, write_wav

NEIGHBOUR = "good.mp4"
SCRIPTS = {
    "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{NEIGHBOUR}\n#EXT-X-ENDLIST\n",
    "concat": f"ffconcat version 1.0\nfile '{NEIGHBOUR}'\n",
    "metadata": ";FFMETADATA1\ntitle=x\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    f'<AdaptationSet mimeType="video/mp4"><Representation id="0"><BaseURL>{NEIGHBOUR}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "playlist": f"[playlist]\nFile1={NEIGHBOUR}\nNumberOfEntries=1\n",
    "subtitles": "1\n00:00:00,000 --> 00:00:02,000\nso good\n",
    "postscript": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(ran) (w) file closefile\nshowpage\n",
    "pdf": "%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n",
    "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{NEIGHBOUR}"/></svg>',
    "avisynth": f'FFmpegSource2("{NEIGHBOUR}")\n',
    "vapoursynth": "import os\nos.system('touch ran')\n",
}


def pictures(path) -> object:
    return decode_frames(
        str(path),
        sampling="uniform",
        frames=2,
        fps=None,
        start_s=None,
        end_s=None,
        resize=SQUARE,
        decoder="pyav",
    )


def sound(path) -> object:
    return decode_audio(str(path), sample_rate_hz=RATE_HZ, start_s=None, end_s=None)


def still(path) -> object:
    return decode_image(str(path), SQUARE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A video with sound whose neighbours would show it."""
    folder = tmp_path_factory.mktemp("neighbours")
    wav = write_wav(folder / "sound.wav", melody(2))
    ffmpeg(*RAW, "-i", wav, *H264, "-c:a", "aac", "-shortest", folder / NEIGHBOUR, data=raw(range(50)))
    pictures(folder / NEIGHBOUR)
    return folder


@pytest.mark.parametrize("ending", ["mp4", "png", "wav", "m3u8", "eps", "vpy"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_no_medium_whatever_it_is_called(folder, script, ending, monkeypatch):
    monkeypatch.chdir(folder)
    path = folder / f"{script}.{ending}"
    path.write_text(SCRIPTS[script])
    before = {*os.listdir(folder)}
    for read in (pictures, sound, still):
        with pytest.raises(MediaError) as told:
            read(path)
        assert told.value.reason == "unreadable"
    assert {*os.listdir(folder)} == before


@pytest.mark.parametrize("notation", ["{}", "{}#0+100", "{}#512+99999999999"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_plain_file_blocks_nobody(tmp_path, kind, notation):
    path = {"pipe": tmp_path / "pipe.tar", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    ended: list[object] = []

    def fetch() -> None:
        try:
            with Storage().media(notation.format(path)) as local:
                sound(local)
        except MediaError as error:
            ended.append(error.reason)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(30)
    assert ended
    assert ended[0] in ("missing_file", "fetch_failed", "unreadable")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_damage(tmp_path, number):
    samples = melody(1)
    samples[8000] = number
    data = samples.astype("<f4").tobytes()
    head = struct.pack("<HHIIHH", 3, 1, RATE_HZ, 4 * RATE_HZ, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(data)) + data
    (tmp_path / "sound.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    ffmpeg("-i", tmp_path / "sound.wav", "-c:a", "copy", tmp_path / "sound.mkv")
    picture = np.full((64, 64), 0.5, np.float32)
    picture[3, 5] = number
    Image.fromarray(picture).save(tmp_path / "picture.tiff")
    for read, name in ((sound, "sound.wav"), (sound, "sound.mkv"), (still, "picture.tiff")):
        with pytest.raises(MediaError, match="no numbers") as told:
            read(tmp_path / name)
        assert told.value.reason == "corrupt"
    part = decode_audio(str(tmp_path / "sound.wav"), sample_rate_hz=RATE_HZ, start_s=0.6, end_s=0.9)
    np.testing.assert_allclose(part.samples, samples[9600:14400], atol=1e-6)


def test_a_refusal_takes_no_time(folder):
    """Nothing of the neighbours is probed: a thousand lines of a playlist cost nothing."""
    path = folder / "long.m3u8"
    path.write_text("#EXTM3U\n" + f"#EXTINF:2,\n{NEIGHBOUR}\n" * 10_000)
    used = time.process_time()
    with pytest.raises(MediaError):
        sound(path)
    assert time.process_time() - used < 5
