"""What decoding in a child process costs: the same clips, in this process and in the sandbox, in turns.

    python tests/benchmarks/sandbox_overhead.py [--rounds 5] [--clips 12] [FOLDER of videos …]

Without folders: drawn clips of 640 × 360, 3 to 6 s, with sound. Prints a JSON line for each set: seconds
a clip both ways (of all rounds, the first left out), what the sandbox takes more of them (mean, and median
of the clips), the same of CPU seconds, which other work on the machine disturbs less, and the memory (MiB,
its own) of an idle child.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import torch

from mmray.decode.isolation import Sandbox
from mmray.features.frames import FramesFeature
from mmray.features.kinds import Feature
from mmray.features.preparing import Preparation, Prepared
from mmray.features.spectral import MelFeature
from mmray.storage.filesystem import Storage
from mmray.tables.schemas import sample_schema

FEATURES: dict[str, Feature] = {
    "face": FramesFeature(kind="frames", frames=16, encoder="resnet18"),
    "voice": MelFeature(kind="mel"),
}
FPS, RATE_HZ = 25, 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as drawn:
        for folder in options.folders or [draw(Path(drawn), options.clips)]:
            videos = sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".mpg", ".mkv"))
            found = compare(videos[: options.clips], options.rounds)
            print(json.dumps({"set": folder.name if options.folders else "drawn", **found}), flush=True)


def compare(videos: list[Path], rounds: int) -> dict[str, float]:
    samples = pa.Table.from_pylist(
        [{"sample_id": path.stem, "video": str(path)} for path in videos],
        schema=sample_schema(["video", "audio"], {}),
    )
    sandbox = Sandbox(timeout_s=60, memory_mb=2048)
    ways = {
        "in_process": Preparation(FEATURES, Storage()),
        "sandbox": Preparation(FEATURES, Storage(), sandbox=sandbox),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu_s = dict.fromkeys(ways, 0.0)
    for round_number in range(1 + rounds):
        for row in range(samples.num_rows):
            order = list(ways) if (round_number + row) % 2 else list(ways)[::-1]
            for name in order:
                start, cpu_start_s = time.perf_counter(), cpu_seconds(sandbox)
                prepared = ways[name](samples.slice(row, 1))
                if round_number:
                    seconds[name].append(time.perf_counter() - start)
                    cpu_s[name] += cpu_seconds(sandbox) - cpu_start_s
                require_whole(prepared)
    child = sandbox._child
    inside, outside = (statistics.mean(seconds[name]) for name in ("in_process", "sandbox"))
    ratios = [there / here for here, there in zip(seconds["in_process"], seconds["sandbox"], strict=True)]
    return {
        "clips": samples.num_rows,
        "in_process_s": round(inside, 4),
        "sandbox_s": round(outside, 4),
        "overhead": round(outside / inside - 1, 4),
        "overhead_median": round(statistics.median(ratios) - 1, 4),
        "overhead_cpu": round(cpu_s["sandbox"] / cpu_s["in_process"] - 1, 4),
        "child_mib": round(child.memory() / 2**20) if child else 0,
    }


def cpu_seconds(sandbox: Sandbox) -> float:
    """Of this process and of the sandbox's child."""
    child_s = 0.0
    if child := sandbox._child:
        stat = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
        child_s = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime; proc(5)
    return time.process_time() + child_s


def require_whole(prepared: Prepared) -> None:
    if errors := [error for errors in prepared.errors.values() for error in errors if error]:
        raise SystemExit(f"a clip failed: {errors[0]}")


def draw(folder: Path, clips: int) -> Path:
    """Moving gradients with grain, as compressible as a camera's pictures; a tone and noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:360, :640]
    for clip in range(clips):
        seconds = float(random.uniform(3, 6))
        with av.open(str(folder / f"{clip}.mp4"), "w") as file:
            video = file.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
            video.width, video.height, video.pix_fmt = 640, 360, "yuv420p"
            audio = file.add_stream("aac", rate=RATE_HZ, layout="mono")
            for number in range(round(seconds * FPS)):
                wave = 100 + 60 * np.sin((columns + 3 * number) / 40) + 40 * np.cos((rows - number) / 25)
                picture = wave[..., None] + random.normal(0, 4, (360, 640, 3))
                frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
                file.mux(video.encode(frame))
            file.mux(video.encode())
            sound = random.normal(0, 0.05, (1, round(seconds * RATE_HZ))).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, 0
            file.mux(audio.encode(frame))
            file.mux(audio.encode())
    return folder


if __name__ == "__main__":
    main()
