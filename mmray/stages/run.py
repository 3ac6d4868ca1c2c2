"""The whole journey: extract → train → score → report."""

from collections.abc import Iterator
from typing import Any

from mmray import console
from mmray.config import Config
from mmray.stages.extract import extract
from mmray.stages.import_features import import_features
from mmray.stages.report import write_report
from mmray.stages.score import score
from mmray.stages.train import train
from mmray.storage.filesystem import Storage

__all__ = ["run_all", "run_stages"]


def run_stages(config: Config, address: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run every stage on a config, each going on where it was left; (stage, summary) as each ends."""
    imported = all(feature.kind == "imported" for feature in config.features.values())
    yield ("import", import_features(config)) if imported else ("extract", extract(config, address))
    for name, stage in (("train", train), ("score", score)):
        yield name, stage(config, address)
    yield "report", {"output": write_report(config.output, Storage(config.storage), config)}


def run_all(config: Config, config_path: str, address: str | None = None) -> None:
    """Run every stage and show what each made."""
    for name, summary in run_stages(config, address):
        if name == "report":
            console.out.print(f"\nreport: {summary['output']}", markup=False)
        else:
            console.show(name, summary, config_path)
