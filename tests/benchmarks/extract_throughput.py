"""`mmray extract` against a plain loop of two processes: same decoder, encoder and writer, no Ray.

    python tests/benchmarks/extract_throughput.py [--clips 96] [--rounds 2] [--setting decode|encode|both]

decode: 16 frames of 640×360 H.264 and sound through a small network. encode: 8 frames at 224² through a
ResNet-18. Both sides take the same partitions with the same code; only who hands them out differs. Rates
are of the steady state: samples after each worker's first partition, over the time from the end of the
last of these first ones to the end of all. They alternate in one run; what counts is the ratio. The loop
runs twice a round: with mmray's decoding child process, and without it, which no loop by hand would have.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

NETWORK = """
from torch import nn


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
SETTINGS = {
    "decode": "{kind: frames, frames: 16, size: 112, encoder: 'small_network:network'}",
    "encode": "{kind: frames, frames: 8, size: 224, encoder: resnet18}",
}
CONFIG = """
output: {output}
samples: {{manifest: {data}/manifest.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features: {{face: {face}, voice: {{kind: mel}}}}
extract: {{partition_samples: 4, actors: 2}}
"""
WORKERS = 2


def write_media(folder: Path, clips: int) -> None:
    """Clips of 4 s, 640×360, H.264 and AAC; 12 different ones, each under several ids."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    for number in range(12):
        with av.open(str(folder / f"{number}.mp4"), "w") as file:
            video = file.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "23"})
            video.width, video.height, video.pix_fmt = 640, 360, "yuv420p"
            audio = file.add_stream("aac", rate=16_000, layout="mono")
            picture = rng.integers(0, 256, (36, 64, 3), np.uint8).repeat(10, 0).repeat(10, 1)
            for frame in range(100):
                moved = np.roll(picture, 5 * frame, axis=1)
                file.mux(video.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
            file.mux(video.encode())
            sound = rng.normal(0, 0.1, (1, 64_000)).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 16_000, 0
            file.mux(audio.encode(samples))
            file.mux(audio.encode())
    rows = [
        {"sample_id": f"{n}", "video": f"{n % 12}.mp4", "emotion": "happy", "split": "train"}
        for n in range(clips)
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def loop_worker(path: str, overrides: list[str], worker: int) -> None:
    """Every second partition, in this process."""
    import pyarrow as pa
    import torch

    from mmray.config import load_config
    from mmray.decode.choice import choose_decoders
    from mmray.distributed import pools as cluster
    from mmray.stages.extract import features_folder, plan_samples
    from mmray.stages.extract_actors import DecodeAndEncode
    from mmray.storage.filesystem import Storage

    cluster.use_own_cpus = lambda: torch.set_num_threads(1)  # this process is no actor
    config, storage = load_config(path, overrides), Storage()
    folder = features_folder(config)
    plan = plan_samples(config, storage, f"{folder}/_plan")
    decoder = choose_decoders(config.extract.decoder).frames
    work = DecodeAndEncode(config, storage, plan, decoder, folder, retry_failed=False)
    for partition in range(worker, plan.partitions, WORKERS):
        work(pa.table({"partition": [partition]}))


def run_loop(path: str, overrides: list[str]) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=loop_worker, args=(path, overrides, n)) for n in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def run_mmray(path: str, overrides: list[str]) -> None:
    command = [sys.executable, "-m", "mmray", "extract", path, *overrides, "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


SIDES = {
    "loop": (run_loop, []),
    "loop-unguarded": (run_loop, ["extract.sandbox=false"]),
    "mmray": (run_mmray, []),
}


def steady_rate(features: Path, rows_of_a_file: int) -> float:
    """Samples a second, from the times at which the files appeared."""
    times = sorted(file.stat().st_mtime_ns / 1e9 for file in features.glob("part-*"))
    warm = WORKERS  # as many as there are workers
    return rows_of_a_file * (len(times) - warm) / (times[-1] - times[warm - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--setting", choices=[*SETTINGS, "both"], default="both")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small_network.py").write_text(NETWORK)
        root = str(Path(__file__).parents[2])
        os.environ["PYTHONPATH"] = os.pathsep.join([name, root])
        sys.path[:0] = [name, root]
        write_media(folder, arguments.clips)
        for setting in SETTINGS if arguments.setting == "both" else [arguments.setting]:
            path = folder / f"{setting}.yaml"
            path.write_text(CONFIG.format(output=folder / setting, data=folder, face=SETTINGS[setting]))
            rates: dict[str, list[float]] = {side: [] for side in SIDES}
            for number in range(arguments.rounds):
                for side, (run, overrides) in SIDES.items():
                    output = folder / f"{setting}-{side}-{number}"
                    start = time.perf_counter()
                    run(str(path), [f"output={output}", *overrides])
                    rates[side].append(steady_rate(output / "features", 4))
                    print(
                        f"{setting} {side}: {rates[side][-1]:.2f} samples/s steady, "
                        f"{time.perf_counter() - start:.1f} s in all, load {os.getloadavg()[0]:.1f}",
                        flush=True,
                    )
            for side in ("loop", "loop-unguarded"):
                ratios = [ours / theirs for ours, theirs in zip(rates["mmray"], rates[side])]
                each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
                print(
                    f"{setting}: mmray / {side} = {statistics.median(ratios):.2f} (rounds: {each})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
