"""The demo: generated clips, every stage on them, and what came of it. No network, minutes on two cores."""

import time
from collections import Counter
from importlib.resources import files
from pathlib import Path

from mmray import console
from mmray.config import load_config
from mmray.stages.run import run

__all__ = ["run_demo"]


def run_demo(out: str, clips: int, address: str | None = None) -> None:
    """Write clips and config below `out`, then run every stage; goes on where it was left."""
    from mmray.assets.clips import write_clips

    start = time.perf_counter()
    folder = Path(out)
    config_path = folder / "demo.yaml"
    manifest = folder / "data" / "manifest.jsonl"
    if not manifest.exists():
        rows = write_clips(str(folder / "data"), clips=clips)
        splits = Counter(row["split"] for row in rows)
        console.out.print(
            f"wrote {len(rows)} generated clips (mp4: H.264 + AAC; a sentence each) to {folder / 'data'}: "
            f"{dict(splits)}; a few are damaged on purpose"
        )
    config_path.write_bytes(files("mmray.assets").joinpath("demo.yaml").read_bytes())
    run(load_config(config_path), address, show=lambda *ended: console.show(*ended, str(config_path)))  # pyright: ignore[reportCallIssue]
    console.out.print(
        f"\n{time.perf_counter() - start:.0f} s in all. The clips are generated: the figures say only that "
        "the parts work together.\nNow your own: mmray init; edit mmray.yaml; mmray run mmray.yaml"
    )
