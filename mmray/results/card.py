"""A model's card: what it predicts from what, what it was trained on, what it is worth, its limits.

Markdown, beside the model, made from what is stored.
Mitchell et al. 2019, "Model cards for model reporting".
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mmray import __version__
from mmray.config import Config
from mmray.features.kinds import kind_of
from mmray.results.table import ResultsTable

__all__ = ["CARD", "card"]

CARD = "README.md"
FEW = 30
"""Fewer rows than this of a subgroup say little."""


def card(config: Config, results: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None) -> str:
    """The card of the model that `results` (of `train`) are of, with what `evaluate` found of subgroups."""
    return "\n".join([*_what(config, results), *_data(results), *_worth(results), *_by(evaluation),
                      *_limits(results, evaluation)])  # fmt: skip


def _what(config: Config, results: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {config.name}: model {results['model_fingerprint']}\n"
    for name, target in config.targets.items():
        yield f"Predicts `{name}` ({target.kind})."
    yield "\n| reads | kind | made from |\n|---|---|---|"
    for name in results["features"]:
        feature = config.features[name]
        made_from = "features made elsewhere" if kind_of(feature).takes is None else feature.source
        yield f"| `{name}` | {feature.kind} | {made_from} |"
    yield (
        f"\nFusion `{config.model.fusion.kind}`; epoch {results['best_epoch']} of {len(results['history'])}, "
        f"chosen by `{results['monitor']}` on validation; seed {config.train.seed}; mmray {__version__}."
    )


def _data(results: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Data\n\n| split | samples | used | without any feature | without a label |"
    yield "|---|---:|---:|---:|---:|"
    for split, told in results.get("splits", {}).items():
        counts = (told.get(key, 0) for key in ("rows", "used", "no_modality", "no_target"))
        yield f"| {split} | {' | '.join(f'{count:,}' for count in counts)} |"


def _worth(results: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## On the test split\n\nBrackets: 95 % bootstrap interval over groups.\n"
    yield ResultsTable.from_json(results["rows"]).to_markdown()
    if len(results.get("patterns", [])) > 1:
        yield "By what a sample has:\n"
        yield ResultsTable.from_json(results["patterns"], first="features").to_markdown()


def _by(evaluation: Mapping[str, Any] | None) -> Iterator[str]:
    if evaluation is None:
        yield "Subgroups were not looked at yet: `mmray evaluate` writes them here."
        return
    for name, told in evaluation["targets"].items():
        for column, rows in told["by"].items():
            yield f"\n### {name} by {column}, {told['split']} rows\n"
            yield f"| {column} | n | {told['main']} | apart from all others |\n|---|---:|---:|---:|"
            for row in rows:
                value = row["value"].replace("|", "\\|").replace("\n", " ")
                far = _interval(*row["difference"][told["main"]], signed=True)
                own = _interval(row["metrics"][told["main"]], *row["interval"][told["main"]])
                yield f"| {value} | {row['n']} | {own} | {far} |"


def _interval(value: float | None, low: float | None, high: float | None, *, signed: bool = False) -> str:
    form = "{:+.3f}" if signed else "{:.3f}"
    if value is None:
        return "–"
    told = form.format(value)
    return told if low is None or high is None else f"{told} [{form.format(low)}, {form.format(high)}]"


def _limits(results: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> Iterator[str]:
    yield "\n## Limits\n"
    n = max((row["n"] for row in results["rows"]), default=0)
    yield f"- Judged on {n} test samples of the same source; what another source gives was not measured."
    for warning in results.get("warnings", []):
        yield f"- {warning}"
    for name, told in (evaluation or {"targets": {}})["targets"].items():
        for column, rows in told["by"].items():
            if few := [row["value"] for row in rows if row["n"] < FEW]:
                yield f"- `{name}` by {column}: fewer than {FEW} rows of {', '.join(few)}."
    yield "- What a sample lacks is a missing modality; a sample without any gets no prediction.\n"
