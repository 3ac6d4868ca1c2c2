"""GRID clips and their word times → the manifest of `configs/grid.yaml`, one row a clip.

    python configs/grid_manifest.py ../shared/data/grid runs/grid/manifest.jsonl --fold 0 --target digit

A sentence of GRID (Cooke et al. 2006, "An audio-visual corpus for speech perception and automatic speech
recognition") is command, colour, preposition, letter, digit, adverb: the row is the segment of its digit,
or of its letter. The clips of each are dealt into five groups in the order of their names; fold k tests on
group k, validates on group k + 1 and trains on the other three. Five folds test every clip once.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

UNITS_PER_S = 25_000  # of .align files: 1000 a frame
FOLDS = 5
PAD_S = 0.08  # two frames on both sides: lips move before the sound and close after it
SILENCE = ("sil", "sp")
PLACES = {"letter": 3, "digit": 4}  # among the words


def rows(folder: Path, fold: int = 0, target: str = "digit") -> Iterator[dict]:
    """A row a clip of `folder` (name.mpg beside name.align), in the order of the names."""
    dealt: Counter[str] = Counter()
    for video in sorted(folder.glob("*.mpg")):
        lines = [line.split() for line in video.with_suffix(".align").read_text().splitlines()]
        start, end, label = [line for line in lines if line[2] not in SILENCE][PLACES[target]]
        group = (dealt[label] - fold) % FOLDS
        dealt[label] += 1
        yield {
            "sample_id": video.stem,
            "video": str(video.resolve()),
            "start_s": max(0.0, int(start) / UNITS_PER_S - PAD_S),
            "end_s": int(end) / UNITS_PER_S + PAD_S,
            target: label,
            "split": ("test", "val")[group] if group < 2 else "train",
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the manifest of configs/grid.yaml.")
    parser.add_argument("grid", type=Path, help="folder of .mpg and .align files")
    parser.add_argument("manifest", type=Path, help=".jsonl file to write")
    parser.add_argument("--fold", type=int, default=0, choices=range(FOLDS), help="which group is the test")
    parser.add_argument("--target", default="digit", choices=PLACES, help="which word is to be told")
    arguments = parser.parse_args()
    arguments.manifest.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in rows(arguments.grid, arguments.fold, arguments.target)]
    arguments.manifest.write_text("".join(lines), encoding="utf-8")
    print(f"{arguments.manifest}: {len(lines)} clips")
