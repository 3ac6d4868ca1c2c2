"""Peak memory and time of decoding from a one-hour clip: python tests/benchmarks/long_video_memory.py

The clip (H.264 320×180 at 25 frames/s, AAC stereo at 48 kHz) is ten seconds encoded once, its packets
written 360 times. Each task runs in a process of its own, on the long clip and on one of ten seconds: what
the second holds are libraries, what the first holds beyond it is the clip's.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from mmray.decode.audio import decode_audio
from mmray.decode.choice import choose_decoders
from mmray.decode.image import PictureGeometry
from mmray.decode.video import decode_frames
from mmray.errors import ConfigError
from mmray.features.spectral import log_mel

FPS, RATE_HZ, LOOP_S = 25, 48_000, 10
SQUARE = PictureGeometry(crop=None, resize_px=112, crop_px=112)


def write_loops(path: Path, loops: int) -> Path:
    """`loops` times the same ten seconds."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "bf": "0", "g": "50"})
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        audio = file.add_stream("aac", rate=RATE_HZ, layout="stereo")
        blocks = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8).repeat(20, 0).repeat(20, 1)
        pictures = [np.roll(blocks, 3 * number, 1) for number in range(FPS * LOOP_S)]
        frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
        shown = [*(packet for frame in frames for packet in video.encode(frame)), *video.encode()]
        times_s = np.arange(RATE_HZ * LOOP_S) / RATE_HZ
        sine = np.stack([0.4 * np.sin(2 * np.pi * 440 * times_s)] * 2).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(sine, format="fltp", layout="stereo")
        sound.sample_rate, sound.pts = RATE_HZ, 0
        heard = audio.encode(sound)
        steps = [
            (
                number / FPS,
                video,
                bytes(shown[number % len(shown)]),
                number,
                shown[number % len(shown)].is_keyframe,
            )
            for number in range(loops * FPS * LOOP_S)
        ]
        steps += [
            (number * 1024 / RATE_HZ, audio, bytes(heard[number % len(heard)]), number * 1024, True)
            for number in range(loops * RATE_HZ * LOOP_S // 1024)
        ]
        for _, stream, data, at, is_key in sorted(steps, key=lambda step: step[0]):
            packet = av.Packet(data)
            packet.pts = packet.dts = at
            packet.duration = 1 if stream is video else 1024
            packet.time_base = Fraction(1, FPS if stream is video else RATE_HZ)
            packet.stream, packet.is_keyframe = stream, is_key
            file.mux(packet)
    return path


def frames_32(path: str, decoder: str, seconds: float) -> None:
    """32 frames, uniform over the whole."""
    _frames(path, decoder, 32, None, None)


def segment_10_s(path: str, decoder: str, seconds: float) -> None:
    """8 frames and the sound of the last ten seconds."""
    _frames(path, decoder, 8, seconds - 10, seconds)
    _sound(path, seconds - 10, seconds)


def segments_100(path: str, decoder: str, seconds: float) -> None:
    """8 frames and the sound of 100 utterances of 3 s, in random order."""
    draw = random.Random(0)
    for _ in range(100):
        start_s = draw.uniform(0, seconds - 3)
        _frames(path, decoder, 8, start_s, start_s + 3)
        _sound(path, start_s, start_s + 3)


def mel_of_all(path: str, decoder: str, seconds: float) -> None:
    """Log-mel of the whole sound."""
    samples = _sound(path, None, None)
    log_mel(samples, sample_rate_hz=16_000, n_mels=64, window_ms=25.0, hop_ms=10.0)


TASKS: list[Callable[[str, str, float], None]] = [frames_32, segment_10_s, mel_of_all, segments_100]


def _frames(path: str, decoder: str, count: int, start_s: float | None, end_s: float | None) -> None:
    decode_frames(
        path,
        sampling="uniform",
        frames=count,
        fps=None,
        start_s=start_s,
        end_s=end_s,
        resize=SQUARE,
        decoder=decoder,
    )


def _sound(path: str, start_s: float | None, end_s: float | None) -> np.ndarray:
    return decode_audio(path, sample_rate_hz=16_000, start_s=start_s, end_s=end_s).samples


def _measure(task: Any, path: str, decoder: str, seconds: float, results: Any) -> None:
    choose_decoders(decoder)
    start = time.process_time()
    task(path, decoder, seconds)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would have the parent's peak
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
    results.put((time.process_time() - start, peak_mb))


def _run(task: Any, path: Path, decoder: str, seconds: float) -> tuple[float, float]:
    """CPU seconds and peak RSS (MB) in a fresh process."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_measure, args=(task, str(path), decoder, seconds, results))
    process.start()
    found = results.get()
    process.join()
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60)
    seconds = parser.parse_args().minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        short = write_loops(Path(folder, "short.mp4"), 1)
        long = write_loops(Path(folder, "long.mp4"), seconds // LOOP_S)
        print(f"{seconds} s, {long.stat().st_size / 1e6:.0f} MB; the short clip has {LOOP_S} s")
        print(f"{'task':14} {'decoder':11} {'CPU time':>8} {'peak RSS':>9} {'on the short clip':>18}")
        for task in TASKS:
            for decoder in ("torchcodec", "decord", "pyav"):
                try:
                    choose_decoders(decoder)
                except ConfigError as error:
                    print(f"{task.__name__:14} {decoder:11} {error}", file=sys.stderr)
                    continue
                (spent_s, peak_mb), (_, base_mb) = (
                    _run(task, path, decoder, length) for path, length in ((long, seconds), (short, LOOP_S))
                )
                line = f"{spent_s:6.2f} s {peak_mb:6.0f} MB {base_mb:15.0f} MB"
                print(f"{task.__name__:14} {decoder:11} {line}", flush=True)


if __name__ == "__main__":
    main()
