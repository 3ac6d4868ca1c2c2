"""CMU-MOSI: is an opinion positive or negative? Features that others made, and MiniLM's of the transcripts.

    python pipelines/mosi.py ../shared/data/mosi runs/mosi MINILM_FOLDER [section.key=value …]

writes `features.npz` (a row an utterance: id, split, sentiment, text [100], audio [73], video [100]) and
`transcripts.jsonl`. The files are those of Poria et al. 2017, "Context-dependent sentiment analysis in user-
generated videos": train of 62 videos, test of 31, no validation split. Of the 62 the 13 with the lowest hash
of their names are held out, whole: a video has one speaker and mostly one opinion.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

import mmray

CONFIGS = Path(__file__).parents[1] / "configs"
MODALITIES, LABELS = ("text", "audio", "video"), ("negative", "positive")
VALIDATION_VIDEOS = 13


def read(folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """{id, split, sentiment, text, audio, video} with a row an utterance, and the transcripts."""
    transcripts = pd.read_csv(folder / "transcripts.csv", header=None, usecols=[0, 1], names=["id", "text"])
    parts = [_part(folder, split, transcripts) for split in ("train", "test")]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    videos = np.array([name.rpartition("_")[0] for name in columns["id"]])
    in_train = {video for video, split in zip(videos, columns["split"], strict=True) if split == "train"}
    held_out = sorted(in_train, key=lambda name: hashlib.sha256(name.encode()).digest())[:VALIDATION_VIDEOS]
    columns["split"][np.isin(videos, held_out)] = "val"
    texts = dict(zip(transcripts["id"], transcripts["text"], strict=True))
    return columns, [texts[name] for name in columns["id"]]


def _part(folder: Path, split: str, transcripts: pd.DataFrame) -> dict[str, np.ndarray]:
    """The rows of one of the files' two splits; column 0 of `text_<split>.csv` is a row's transcript."""
    rows = pd.read_csv(folder / f"text_{split}.csv", header=None, usecols=[0])[0].to_numpy()
    tables = {
        name: pd.read_csv(folder / name / f"{name}_{split}0.csv", header=None).to_numpy(np.float32)
        for name in MODALITIES
    }
    labels = [table[:, -1] for table in tables.values()]
    if any(len(label) != len(rows) or (label != labels[0]).any() for label in labels):
        raise SystemExit(f"{folder}: the {split} files do not have the same rows")
    return {
        "id": transcripts["id"].to_numpy(dtype=str)[rows],
        "split": np.full(len(rows), split, dtype="U5"),
        "sentiment": np.array(LABELS)[labels[0].astype(int)],
        **{name: table[:, :-1] for name, table in tables.items()},
    }


def main() -> None:
    """Write both sources; extract sentences, import the features, compare the models."""
    parser = argparse.ArgumentParser(description="CMU-MOSI: positive or negative, by features of others.")
    parser.add_argument("mosi", type=Path, help="folder with text/, audio/, video/ and transcripts.csv")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("sentences", help="folder of a sentence encoder (MiniLM), in Hugging Face format")
    parser.add_argument("settings", nargs="*", help="section.key=value in place of the config's")
    given = parser.parse_args()
    columns, texts = read(given.mosi)
    given.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.out / "features.npz", allow_pickle=False, **columns)
    told = {"sample_id": columns["id"], **{name: columns[name] for name in ("sentiment", "split")}}
    pd.DataFrame({**told, "text": texts}).to_json(
        given.out / "transcripts.jsonl", orient="records", lines=True
    )
    text = [f"output={given.out}/text", f"samples.manifest={given.out}/transcripts.jsonl"]
    model = f"features.sentence.model={given.sentences}"
    sentences = mmray.extract(mmray.load_config(CONFIGS / "mosi_text.yaml", [*text, model]))
    places = [f"output={given.out}/fusion", f"samples.manifest={given.out}/features.npz"]
    table = f"features.sentence.path={sentences['output']}"
    config = mmray.load_config(CONFIGS / "mosi.yaml", [*places, table, *given.settings])
    mmray.import_features(config)
    print(Path(mmray.compare(config)["table"]).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
