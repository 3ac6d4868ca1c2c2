"""Spoken digits (FSDD) and written ones (MNIST), paired by label: which digit is it?

    python pipelines/avmnist.py FSDD.tar.gz MNIST.npz runs/avmnist [section.key=value …]

writes a wav and a png a sample, and `manifest.jsonl` (sample_id, audio, image, digit, split). A recording
`{digit}_{speaker}_{index}.wav` is in FSDD's own test split where index < 5, here in validation where it is
below 10, else in training. Every recording gets a picture of its digit, the next one not used before of the
digit's pictures in a fixed random order. (AV-MNIST of Vielzeuf et al. 2018 is of other recordings.)
"""

import argparse
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import mmray

CONFIG = Path(__file__).parents[1] / "configs/avmnist.yaml"
SPLITS = {"test": range(5), "val": range(5, 10), "train": range(10, 50)}


def rows(recordings: Path, digits: Path, out: Path, per_label: int) -> Iterator[dict]:
    """Write media below `out`, a pair a row; at most `per_label` training pairs of each digit."""
    with np.load(digits, allow_pickle=False) as arrays:
        pictures, labels = arrays["x"], arrays["y"]
    order = np.random.default_rng(0).permutation(len(labels))
    unused = {digit: iter(order[labels[order] == digit]) for digit in range(10)}
    trained = dict.fromkeys(range(10), 0)
    sounds = _sounds(recordings)
    for name in sorted(sounds, key=_digit_index_speaker):
        digit, index, _ = _digit_index_speaker(name)
        split = next(split for split, indices in SPLITS.items() if index in indices)
        trained[digit] += split == "train"
        if split == "train" and trained[digit] > per_label:
            continue
        (out / f"{name}.wav").write_bytes(sounds[name])
        Image.fromarray(pictures[next(unused[digit])]).save(out / f"{name}.png")
        row = {"sample_id": name, "digit": str(digit), "split": split}
        yield row | {"audio": f"media/{name}.wav", "image": f"media/{name}.png"}


def _sounds(recordings: Path) -> dict[str, bytes]:
    """{name: a wav file's bytes}, some 25 MB; in the archive's order, because to seek is to unpack again."""
    with tarfile.open(recordings, "r|gz") as archive:
        return {
            Path(member.name).stem: file.read()
            for member in archive
            if member.name.endswith(".wav") and (file := archive.extractfile(member))
        }


def _digit_index_speaker(name: str) -> tuple[int, int, str]:
    digit, speaker, index = name.split("_")
    return int(digit), int(index), speaker


def main() -> None:
    """Write media and manifest, extract, compare the models."""
    parser = argparse.ArgumentParser(description="Spoken and written digits, paired by label.")
    parser.add_argument("fsdd", type=Path, help="fsdd_recordings.tar.gz")
    parser.add_argument("mnist", type=Path, help=".npz with x [N, 28, 28] uint8 and y [N]")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("settings", nargs="*", help="section.key=value in place of the config's")
    parser.add_argument("--per-label", type=int, default=240, help="training pairs of each digit")
    given = parser.parse_intermixed_args()
    (given.out / "media").mkdir(parents=True, exist_ok=True)
    lines = map(json.dumps, rows(given.fsdd, given.mnist, given.out / "media", given.per_label))
    (given.out / "manifest.jsonl").write_text("\n".join(lines))
    places = [f"output={given.out}/project", f"samples.manifest={given.out}/manifest.jsonl"]
    config = mmray.load_config(CONFIG, [*places, *given.settings])
    mmray.extract(config)
    print(Path(mmray.compare(config)["table"]).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
