"""`mmray extract` against a loop of two processes written by hand with the same libraries.

    python tests/benchmarks/extract_throughput.py [--clips 60] [--rounds 1] [--case decode encode]

Drawn clips of 640 × 360, 3 to 6 s, with sound. Two cases: `decode`, 8 frames through a small network at 64
pixels, and log-mel; `encode`, 16 frames through a ResNet-18 at 224, and log-mel. The loop decodes with PyAV,
fits with Pillow, encodes 64 pictures at once and writes a Parquet file for 20 clips; it knows no rotation, no
damage, no resume. Both begin when their processes have started and loaded the network.

Prints a JSON line a case: clips a second both ways and their ratio (of mmray: two actors, of the seconds
they were busy with a stage, so without Ray's own time between partitions); CPU seconds of the working
processes a clip, and what mmray takes more of them (which other work on the machine disturbs less); seconds
from the command to the first part file and to the end, and of Ray's bare start; the load of the machine.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sandbox_overhead import draw  # pyright: ignore[reportImplicitRelativeImport]

CASES = {
    "decode": {"frames": 8, "size": 64, "encoder": "mobilenet_v3_small"},
    "encode": {"frames": 16, "size": 224, "encoder": "resnet18"},
}
PART = 20
BARE = (
    "import ray, time; t = time.time(); ray.init(num_cpus=2, include_dashboard=False); print(time.time() - t)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--case", nargs="*", choices=CASES, default=[*CASES])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = sorted(draw(Path(folder), options.clips).rglob("*.mp4"))
        for name in options.case:
            for number in range(options.rounds):
                hand = by_hand(clips, CASES[name], Path(folder) / f"hand-{name}-{number}")
                ours = by_mmray(clips, CASES[name], Path(folder) / f"mmray-{name}-{number}")
                line = {
                    "case": name,
                    "hand_clips_per_s": round(hand["rate"], 2),
                    "mmray_clips_per_s": round(ours["rate"], 2),
                    "ratio": round(ours["rate"] / hand["rate"], 2),
                    "hand_cpu_s_per_clip": round(hand["cpu_s"] / len(clips), 3),
                    "mmray_cpu_s_per_clip": round(ours["cpu_s"] / len(clips), 3),
                    "cpu_more": round(ours["cpu_s"] / hand["cpu_s"] - 1, 3),
                    "first_row_s": round(ours["first_s"], 1),
                    "whole_s": round(ours["whole_s"], 1),
                    "bare_ray_s": round(bare_ray(), 1),
                    "load": round(os.getloadavg()[0], 1),
                }
                print(json.dumps(line), flush=True)


# ------------------------------------------------------------------------------------ by hand


def by_hand(clips: list[Path], case: dict[str, Any], output: Path) -> dict[str, float]:
    output.mkdir()
    parts = [clips[at : at + PART] for at in range(0, len(clips), PART)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, initializer=load, initargs=(case,)) as pool:
        pool.map(ready, range(2), chunksize=1)
        start = time.perf_counter()
        jobs = [(part, output / f"{at}.parquet") for at, part in enumerate(parts)]
        cpu_s = sum(pool.imap_unordered(do_part, jobs))
        return {"rate": len(clips) / (time.perf_counter() - start), "cpu_s": cpu_s}


state: dict[str, Any] = {}


def load(case: dict[str, Any]) -> None:
    import torch
    import torchvision

    torch.set_num_threads(1)
    network = torchvision.models.get_model(case["encoder"], weights=None).eval()
    last = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)][-1]
    parent, _, child = last.rpartition(".")
    setattr(network.get_submodule(parent), child, torch.nn.Identity())
    state.update(case=case, network=network)


def ready(_: int) -> None:
    time.sleep(1)


def do_part(job: tuple[list[Path], Path]) -> float:
    """Its CPU seconds."""
    import torch

    start = time.process_time()
    clips, output = job
    pictures, mels = [], []
    for path in clips:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            wanted = {
                int((i + 0.5) * stream.frames / state["case"]["frames"])
                for i in range(state["case"]["frames"])
            }
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    pictures.append(fitted(frame.to_ndarray(format="rgb24")))
        mels.append(log_mel(path))
    vectors = []
    with torch.inference_mode():
        for at in range(0, len(pictures), 64):
            x = torch.from_numpy(np.stack(pictures[at : at + 64])).permute(0, 3, 1, 2).float() / 255
            vectors.append(state["network"]((x - 0.45) / 0.22).flatten(1).numpy())
    face = np.concatenate(vectors).reshape(len(clips), -1, vectors[0].shape[1])
    table = pa.table({"id": [path.stem for path in clips], "face": face.tolist(), "voice": mels})
    pq.write_table(table, output, compression="zstd")
    return time.process_time() - start


def fitted(picture: np.ndarray) -> np.ndarray:
    side = state["case"]["size"]
    short = round(side * 256 / 224)
    image = Image.fromarray(picture)
    scale = short / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.array(image.crop((left, top, left + side, top + side)))


def log_mel(path: Path) -> list[list[float]]:
    import torch
    import torchaudio

    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    sound = np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])
    if "mel" not in state:
        state["mel"] = torchaudio.transforms.MelSpectrogram(
            16_000, n_fft=512, win_length=400, hop_length=160, n_mels=64
        )
    return torch.log(state["mel"](torch.from_numpy(sound)) + 1e-10).T.tolist()


# ------------------------------------------------------------------------------------ mmray


def by_mmray(clips: list[Path], case: dict[str, Any], folder: Path) -> dict[str, float]:
    folder.mkdir()
    rows = [{"sample_id": path.stem, "video": str(path), "t": 0.0} for path in clips]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "output": str(folder / "out"),
        "samples": {"manifest": str(folder / "manifest.jsonl")},
        "targets": {"t": {"kind": "regression"}},
        "features": {"face": {"kind": "frames", **case}, "voice": {"kind": "mel", "n_mels": 64}},
        "extract": {"actors": 2, "partition_samples": PART},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    start, first = time.perf_counter(), []

    def watch() -> None:
        while not first:
            if next((folder / "out").rglob("part-*.parquet"), None) and any(
                "features" in path.parts for path in (folder / "out").rglob("part-*.parquet")
            ):
                first.append(time.perf_counter() - start)
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    command = [sys.executable, "-m", "mmray", "extract", str(folder / "config.yaml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    told = json.loads(done.stdout)
    assert told["failed_rows"] == 0, told["failures"]
    busy = sum(told["stage_seconds"].values()) / 2
    return {
        "rate": len(clips) / busy,
        "cpu_s": told["cpu_seconds"],
        "first_s": first[0],
        "whole_s": time.perf_counter() - start,
    }


def bare_ray() -> float:
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
