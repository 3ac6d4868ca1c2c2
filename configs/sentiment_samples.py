"""Generated opinions as plain files, a text, a jpg and a wav each → what `configs/sentiment.yaml` reads.

    python configs/sentiment_samples.py runs/sentiment/data --samples 240

The samples are the demo's (`mmray.assets.clips`): a drawn face, here the last picture of its clip; tone
pulses; a sentence. The picture shows pleasant or unpleasant, the sound aroused or quiet, the words hint at
one of the two: only together they tell which of four sentiments it is. Replace manifest.jsonl by your own.
"""

import argparse
import json
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mmray.assets.clips import SAMPLE_RATE_HZ, draw_frames, plan_clips, synthesize_sound


def rows(folder: Path, samples: int) -> Iterator[dict]:
    """Write each sample's jpg and wav below `folder`; its manifest row."""
    for clip in plan_clips(samples):
        Image.fromarray(draw_frames(clip)[-1]).save(folder / f"{clip.sample_id}.jpg", quality=95)
        sound = synthesize_sound(clip)
        with wave.open(str(folder / f"{clip.sample_id}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE_HZ, len(sound), "NONE", ""))
            file.writeframes((32767 * sound.clip(-1, 1)).astype(np.int16).tobytes())
        yield {
            "sample_id": clip.sample_id,
            "text": clip.text,
            "image": f"{clip.sample_id}.jpg",
            "audio": f"{clip.sample_id}.wav",
            "sentiment": clip.emotion,
            "split": clip.split,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the samples of configs/sentiment.yaml.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--samples", type=int, default=240)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in rows(arguments.out, arguments.samples)]
    (arguments.out / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{arguments.out / 'manifest.jsonl'}: {len(lines)} samples")
