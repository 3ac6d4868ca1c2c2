"""The textbook example: text + picture + sound → sentiment, from plain files (here generated ones).

    python pipelines/sentiment.py runs/sentiment [section.key=value …] [--samples 240]

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

import mmray
from mmray.assets.clips import SAMPLE_RATE_HZ, draw_frames, plan_clips, synthesize_sound

CONFIG = Path(__file__).parents[1] / "configs/sentiment.yaml"


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


def main() -> None:
    """Write samples and manifest, run the journey."""
    parser = argparse.ArgumentParser(description="Text, picture and sound → sentiment.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("settings", nargs="*", help="section.key=value in place of the config's")
    parser.add_argument("--samples", type=int, default=240)
    given = parser.parse_intermixed_args()
    data = given.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows(data, given.samples))
    (data / "manifest.jsonl").write_text(lines, encoding="utf-8")
    places = [f"output={given.out / 'project'}", f"samples.manifest={data / 'manifest.jsonl'}"]
    summaries = mmray.run(mmray.load_config(CONFIG, [*places, *given.settings]))
    for row in summaries["train"]["rows"]:
        print(f"{row['model']:>12}  n={row['n']}  {row['metrics']}")
    print(summaries["report"]["output"])


if __name__ == "__main__":
    main()
