"""Three hundred damaged files over all containers: a row each, a value or a sensible reason, nothing left."""

import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import pyarrow as pa
import pytest
from PIL import Image

from mmray.decode.isolation import Sandbox
from mmray.errors import Reason
from mmray.features.frames import FramesFeature
from mmray.features.kinds import Feature
from mmray.features.preparing import Preparation
from mmray.features.spectral import MelFeature
from mmray.storage.filesystem import Storage
from mmray.tables.schemas import sample_schema
from tests.decode.making import H264, RAW, ffmpeg, melody, numbered, raw, write_wav

MPEG2 = ("-c:v", "mpeg2video", "-c:a", "mp2")
FILES = {
    "a.mp4": (*H264, "-c:a", "aac"),
    "a.mov": (*H264, "-c:a", "aac"),
    "a.mkv": (*H264, "-c:a", "libmp3lame"),
    "a.webm": ("-c:v", "libvpx", "-c:a", "libopus"),
    "a.ts": (*H264, "-c:a", "aac"),
    "a.mpg": MPEG2,
    "a.avi": ("-c:v", "mpeg4", "-c:a", "libmp3lame"),
    "a.flv": (*H264, "-c:a", "aac", "-ar", 44_100),
    "a.wmv": ("-c:v", "wmv2", "-c:a", "wmav2"),
    "a.ogv": ("-c:v", "libtheora", "-c:a", "libvorbis"),
    "a.nut": (*H264, "-c:a", "mp2"),
    "a.rm": ("-c:v", "rv10", "-c:a", "ac3"),
    **dict.fromkeys(("a.mp3", "a.flac", "a.ogg", "a.m4a", "a.ac3", "a.wma", "a.aiff", "a.au"), ("-vn",)),
}
STILLS = ("a.png", "a.jpg", "a.webp", "a.tiff", "a.gif")
FEATURES: dict[str, Feature] = {
    "face": FramesFeature(kind="frames", frames=4, size=32),
    "scene": FramesFeature(kind="frames", source="image", size=32),
    "voice": MelFeature(kind="mel"),
}
DAMAGES = 12


def damaged(content: bytes, draw: np.random.Generator) -> bytes:
    """Bits turned, a stretch of noise, of zeros, taken out or given twice, or the end cut off."""
    data = bytearray(content)
    first, last = sorted(int(at) for at in draw.integers(0, len(data), 2))
    last = min(last, first + len(data) // 8)
    match draw.integers(6):
        case 0:
            for at in draw.integers(0, len(data), 20):
                data[at] ^= 1 << draw.integers(8)
        case 1:
            data[first:last] = draw.bytes(last - first)
        case 2:
            data[first:last] = bytes(last - first)
        case 3:
            del data[first:last]
        case 4:
            data[first:first] = data[first:last]
        case _:
            del data[first:]
    return bytes(data)


@pytest.mark.endurance
@pytest.mark.timeout(1800)
def test_three_hundred_damaged_files_are_three_hundred_rows(tmp_path):
    draw = np.random.default_rng(0)
    wav = write_wav(tmp_path / "sound.wav", melody(3))
    rows = []
    for name in (*FILES, *STILLS):
        if name in STILLS:
            Image.fromarray(numbered(7)).save(tmp_path / name)
        else:
            ffmpeg(*RAW, "-i", wav, *FILES[name], "-shortest", tmp_path / name, data=raw(range(75)))
        column = "image" if name in STILLS else "audio" if "-vn" in FILES[name] else "video"
        for number in range(DAMAGES):
            path = tmp_path / f"{number}-{name}"
            path.write_bytes(damaged((tmp_path / name).read_bytes(), draw))
            rows.append({"sample_id": path.name, column: str(path)})
    samples = pa.Table.from_pylist(rows, schema=sample_schema(["video", "audio", "image"], {}))
    before, children = {*Path(tempfile.gettempdir()).iterdir()}, {*psutil.Process().children(recursive=True)}
    sandbox = Sandbox(timeout_s=20, memory_mb=512)
    prepared = Preparation(FEATURES, Storage(), sandbox=sandbox)(samples)
    sandbox.close()
    assert len(rows) == prepared.samples.num_rows == 300
    reasons = {*get_args(Reason)}
    for name in FEATURES:
        told = [error and error["reason"] for error in prepared.errors[name]]
        assert len(told) == len(prepared.steps[name]) == 300
        for step, reason in zip(prepared.steps[name], told, strict=True):
            assert (step is None) == (reason is not None)
            assert reason is None or reason in reasons - {
                "fetch_failed",
                "missing_file",
                "encoder_out_of_memory",
            }
            assert step is None or np.isfinite(step.value).all()
    assert {*psutil.Process().children(recursive=True)} == children
    left = {path.name for path in {*Path(tempfile.gettempdir()).iterdir()} - before}
    assert not {name for name in left if name.startswith("mmray")}
