"""Trials of a search → what is said of them: a table, curves, importance of settings, what more trials give.

A trial is {settings, best (None: it failed), best_epoch, epochs, seconds, state, error, curve}; `curve` are
the monitor's values, epoch by epoch.
"""

import csv
import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mmray.training.aggregate import expected_best

__all__ = ["STATES", "as_csv", "importance", "told"]

STATES = ("ended", "stopped", "failed", "unfinished")
"""A trial ran all epochs (or out of patience), was stopped by the scheduler, has no result, or was cut."""
FEWEST = 4
"""Trials of which the importance of settings is told."""


def told(trials: Sequence[Mapping[str, Any]], *, lower_is_better: bool) -> dict[str, Any]:
    """What a report needs beside the table: {curves, importance, expected_best}.

    `curves` [{settings, state, values}], best trial first, as the trials are. `expected_best` [k - 1] is the
    best value to expect of k trials (`training.aggregate.expected_best`), had they been drawn independently.
    """
    values = [trial["best"] for trial in trials if trial["best"] is not None]
    return {
        "curves": [
            {
                "settings": trial["settings"],
                "state": trial["state"],
                "values": [None if math.isnan(value) else value for value in trial["curve"]],
            }
            for trial in trials
        ],
        "importance": importance(trials),
        "expected_best": expected_best(values, lower_is_better=lower_is_better),
    }


def importance(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """{setting: share of the variance of trials' values that it accounts for}, largest first.

    Functional ANOVA over a random forest (Hutter, Hoos and Leyton-Brown 2014, "An efficient approach for
    assessing hyperparameter importance"), by Optuna; of settings that every trial has, in two values at
    least. {} where there are too few trials, or all have the same value.
    """
    import optuna

    good = [trial for trial in trials if trial["best"] is not None]
    names = [
        name
        for name in (good[0]["settings"] if good else {})
        if all(name in trial["settings"] for trial in good)
        and len({json.dumps(trial["settings"][name]) for trial in good}) > 1
    ]
    if len(good) < FEWEST or not names or len({trial["best"] for trial in good}) == 1:
        return {}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    spaces = {name: _space([trial["settings"][name] for trial in good]) for name in names}
    for trial in good:
        study.add_trial(
            optuna.trial.create_trial(
                params={name: _plain(trial["settings"][name], spaces[name]) for name in names},
                distributions=spaces,
                value=trial["best"],
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings(action="ignore"):  # that it is experimental
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: round(float(share), 4) for name, share in found.items()}


def _space(values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return IntDistribution(min(values), max(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=low > 0 and high / low >= 100)
    return CategoricalDistribution(sorted({json.dumps(value) for value in values}))


def _plain(value: Any, space: Any) -> Any:
    from optuna.distributions import CategoricalDistribution

    return json.dumps(value) if isinstance(space, CategoricalDistribution) else value


def as_csv(trials: Sequence[Mapping[str, Any]], settings: Sequence[str]) -> bytes:
    """A row a trial; a setting that a trial has not is empty."""
    sink = io.StringIO(newline="")
    rows = [
        {
            **{name: trial["settings"].get(name) for name in settings},
            **{key: value for key, value in trial.items() if key not in ("settings", "curve")},
        }
        for trial in trials
    ]
    writer = csv.DictWriter(sink, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()
