"""Media files → features → a fusion model → predictions → a report: the whole journey, in one program.

    python pipelines/media_to_predictions.py                           on clips it generates, in runs/journey
    python pipelines/media_to_predictions.py mmray.yaml train.epochs=50          on your own
    ray job submit --working-dir . -- python pipelines/media_to_predictions.py   on a cluster

Run it again after anything: finished work is left as it is, an interrupted stage goes on where it was.
"""

import json
import sys
from pathlib import Path

import mmray

OUT = Path("runs/journey").resolve()

CONFIG = {
    "output": str(OUT),
    "samples": {"manifest": str(OUT / "data/manifest.jsonl")},
    "targets": {"emotion": {"kind": "classification"}},
    "features": {
        "face": {"kind": "frames", "frames": 4, "encoder": "resnet18", "weights": "random", "size": 64},
        "voice": {"kind": "mel", "n_mels": 32, "hop_ms": 20.0},
        "words": {"kind": "tokens"},
    },
    "extract": {"partition_samples": 16},
    "model": {"fusion": {"kind": "concat", "hidden": 32}, "modality_dropout": 0.2},
    "train": {"epochs": 20, "learning_rate": 3e-3},
}


def clips() -> None:
    """Draw and encode small clips, a few of them damaged on purpose; where they are there, nothing."""
    from mmray.assets.clips import write_clips

    if not (OUT / "data/manifest.jsonl").exists():
        write_clips(str(OUT / "data"), clips=96)


def main(arguments: list[str]) -> None:
    """Run every stage, and say what each made."""
    path = arguments.pop(0) if arguments and "=" not in arguments[0] else None
    if path is None:
        clips()
    config = mmray.load_config(path or CONFIG, arguments)

    mmray.check(config)  # what would stop the run is found now, and nothing is left behind
    features = mmray.extract(config)
    failed = features["failed_rows"]
    print(f"features: {features['rows']} rows, {failed} of them with a failure, in {features['output']}")

    training = mmray.train(config)
    for row in training["rows"]:  # the majority, each modality alone, the fused model; on the test split
        print(f"{row['model']:>12}  n={row['n']}  {json.dumps(row['metrics'])}")

    predictions = mmray.score(config)
    print(f"predictions: {predictions['rows']} rows in {predictions['output']}")
    print(f"report: {mmray.report(config)['output']}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except mmray.MmrayError as fault:  # what is wrong, where, and what to do about it
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)
