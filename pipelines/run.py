"""The whole journey: extract → train → score → report."""

from mmray.config import Config
from mmray.storage import Storage
from pipelines import console
from pipelines.extract import extract
from pipelines.report import write_report
from pipelines.score import score
from pipelines.train import train

__all__ = ["run_all"]


def run_all(config: Config, config_path: str, address: str | None = None) -> None:
    """Run every stage on a config, each going on where it was left, and show what each made."""
    for name, stage in (("extract", extract), ("train", train), ("score", score)):
        console.show(name, stage(config, address), config_path)
    console.out.print(f"\nreport: {write_report(config.output, Storage(config.storage), config)}")
