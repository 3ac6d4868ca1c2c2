"""GRID: which digit (or letter) does a talker say? From the mouth and the sound, at several noise levels.

    python pipelines/grid.py ../shared/data/grid runs/grid [section.key=value …]
    python pipelines/grid.py ../shared/data/grid runs/letters --target letter --snr -10

A sentence of GRID (Cooke et al. 2006, "An audio-visual corpus for speech perception and automatic speech
recognition") is command, colour, preposition, letter, digit, adverb: a sample is the segment of its digit, or
of its letter. The clips of each are dealt into five groups in the order of their names; fold k tests on group
k, validates on group k + 1 and trains on the other three. Five folds test every clip once.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mmray

CONFIG = Path(__file__).parents[1] / "configs/grid.yaml"
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


def main() -> None:
    """Write the manifest, run the journey."""
    parser = argparse.ArgumentParser(description="Spoken words of the GRID corpus, from face and voice.")
    parser.add_argument("grid", type=Path, help="folder of .mpg and .align files")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("settings", nargs="*", help="section.key=value in place of the config's")
    parser.add_argument("--config", type=Path, default=CONFIG, help="instead of configs/grid.yaml")
    parser.add_argument("--fold", type=int, default=0, choices=range(FOLDS), help="which group is the test")
    parser.add_argument("--target", default="digit", choices=PLACES, help="which word is to be told")
    parser.add_argument("--snr", type=float, help="white noise at this signal-to-noise ratio, dB")
    parser.add_argument("--compare", action="store_true", help="all fusion models × seeds, in place of one")
    given = parser.parse_intermixed_args()
    given.out.mkdir(parents=True, exist_ok=True)
    manifest = given.out / "manifest.jsonl"
    noise = f"features.voice.snr_db={given.snr}" if given.snr is not None else "features.voice.noise_seed=0"
    targets = f"targets={{{given.target}: {{kind: classification}}}}"
    places = [f"output={given.out / 'project'}", f"samples.manifest={manifest}"]
    config = mmray.load_config(given.config, [*places, targets, noise, *given.settings])
    left_out = {"split"} if config.samples.split.folds else set()  # then mmray draws them
    dealt = rows(given.grid, given.fold, given.target)
    found = [{key: value for key, value in row.items() if key not in left_out} for row in dealt]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    mmray.extract(config)
    results = mmray.compare(config) if given.compare else mmray.train(config)
    for row in results["rows"]:
        print(f"{row['model']:>20}  n={row['n']}  {row['metrics'][f'{given.target}/accuracy']}")
    print(mmray.report(config)["output"])


if __name__ == "__main__":
    main()
