"""The whole journey: extract → train → score → evaluate → report."""

from collections.abc import Callable
from typing import Any

from mmray.config import ConfigLike, as_config
from mmray.stages.evaluate import evaluate
from mmray.stages.extract import extract
from mmray.stages.import_features import import_features
from mmray.stages.report import report
from mmray.stages.score import score
from mmray.stages.train import train

__all__ = ["run"]


def run(
    config: ConfigLike,
    address: str | None = None,
    *,
    show: Callable[[str, dict[str, Any]], None] = lambda stage, summary: None,
) -> dict[str, dict[str, Any]]:
    """Run every stage, each going on where it was left; {stage: its summary}.

    `show(stage, summary)` is called as each ends.

    Raises:
        MmrayError: what the first stage that cannot go on raised.
    """
    config = as_config(config)
    summaries: dict[str, dict[str, Any]] = {}

    def ended(stage: str, summary: dict[str, Any]) -> None:
        summaries[stage] = summary
        show(stage, summary)

    imported = [feature.kind == "imported" for feature in config.features.values()]
    if any(imported):
        ended("import-features", import_features(config))
    if not all(imported):
        ended("extract", extract(config, address))
    ended("train", train(config, address))
    ended("score", score(config, address))
    ended("evaluate", evaluate(config))
    ended("report", report(config))
    return summaries
