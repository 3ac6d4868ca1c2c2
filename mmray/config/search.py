"""The space of a search: what a trial draws from it, and what is wrong with it.

A space names settings by their dotted paths (`model.fusion.kind`, `train.learning_rate`), and `features` for
which of them a model reads. A setting that only some of the searched kinds have applies where they are drawn
and only there: {model.fusion.kind: [concat, low_rank], model.fusion.rank: [2, 4]} are three models, not four.
So values are chosen one after another, kinds first, and each is asked for only where it applies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from mmray.config.explain import explain, merged
from mmray.config.schema import Config
from mmray.config.training import Space
from mmray.config.values import set_at, with_tuples

__all__ = ["FEATURES", "Pick", "choose", "draws", "perturbed", "space_faults"]

Pick = Callable[[str, Space], Any]
"""A setting's path and the values to search → one of them."""

FEATURES = "features"
TRIES = 30
"""Draws that are thrown away for being the same as an earlier one, before the space counts as exhausted."""
SECTIONS = ("model", "train", "targets")
IN_FLIGHT = (
    *("learning_rate", "weight_decay", "clip_norm", "modality_dropout", "unimodal_heads", "noise"),
    *("dropout", "input_dropout", "label_smoothing"),
)
"""Settings that can be changed in mid-training: the weights they leave as they are."""
REDRAWN = 0.25
"""Chance of a setting to be drawn anew, where it is not just moved by a fifth."""
JUDGES = ("kind", "classes", "scale")
"""Settings of a target that decide what it is judged by."""


# ------------------------------------------------------------------------------------ what a trial draws


def choose(config: Config, pick: Pick) -> dict[str, Any]:
    """One value for each setting of `tune.space` that applies beside the values chosen before it."""
    data, chosen = _plain(config), {}
    for dotted, space in _in_order(config.tune.space):
        if _applies(data, chosen.get(FEATURES), dotted, space):
            chosen[dotted] = pick(dotted, space)
            if dotted != FEATURES:
                data, _ = set_at(data, dotted, chosen[dotted])
    return chosen


def draws(config: Config) -> list[dict[str, Any]]:
    """The settings of every trial that is known beforehand: all but those of a searcher that learns.

    `searcher: random` draws `trials` times, and each time takes every combination of the grids beside what it
    drew; without anything to draw, and with `searcher: grid`, every combination once. No two are the same.
    """
    space = config.tune.space.values()
    everything = config.tune.searcher == "grid" or all(values.grid for values in space)
    found: list[dict[str, Any]] = []
    for draw in range(1 if everything else config.tune.trials):
        for attempt in range(TRIES):
            key = [config.tune.seed, draw, attempt]
            new = [settings for settings in _combinations(config, key, everything) if settings not in found]
            if new:
                found += new
                break
    return found


def _combinations(config: Config, key: list[int], everything: bool) -> Iterator[dict[str, Any]]:
    """Every way through the grids (`everything`: the choices, too), with what `key` draws for the rest.

    A setting's value follows from the key and its path: it is the same on every way.
    """
    ways: list[list[int]] = [[]]
    while ways:
        way = _Way(ways.pop(), key, everything)
        yield choose(config, way.pick)
        ways += reversed(way.others)


class _Way:
    """Takes the values at `places` of the first lists it comes to, and the first value of further lists.

    `others` are the ways that part from it at these.
    """

    def __init__(self, places: list[int], key: list[int], everything: bool):
        self.places, self.key, self.everything = places, key, everything
        self.taken: list[int] = []
        self.others: list[list[int]] = []

    def pick(self, dotted: str, space: Space) -> Any:
        """The value of this way."""
        values = space.grid or (space.choice if self.everything else None)
        if values is None:
            return _drawn(space, np.random.default_rng([*self.key, *dotted.encode()]))
        if (depth := len(self.taken)) < len(self.places):
            place = self.places[depth]
        else:
            place = 0
            self.others += [[*self.taken, other] for other in range(1, len(values))]
        self.taken.append(place)
        return values[place]


def _drawn(space: Space, rng: np.random.Generator) -> Any:
    if space.choice:
        return space.choice[rng.integers(len(space.choice))]
    if space.int:
        return int(rng.integers(space.int[0], space.int[1] + 1))
    if space.uniform:
        return float(rng.uniform(*space.uniform))
    assert space.log_uniform, "a space is exactly one of these"
    return float(np.exp(rng.uniform(*np.log(space.log_uniform))))


def perturbed(config: Config, settings: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The settings of a trial, each drawn anew or moved a little: a number by a fifth, in its range; else to
    the neighbour in its list.
    """
    changed = {}
    for dotted, value in settings.items():
        space = config.tune.space[dotted]
        if rng.random() < REDRAWN:
            changed[dotted] = _drawn(space.model_copy(update={"choice": space.choice or space.grid}), rng)
        elif values := space.choice or space.grid:
            place = values.index(value) + rng.choice([-1, 1])
            changed[dotted] = values[min(max(place, 0), len(values) - 1)]
        else:
            low, high = space.values
            moved = min(max(value * rng.choice([0.8, 1.2]), low), high)
            changed[dotted] = round(moved) if space.int else float(moved)
    return changed


def _in_order(space: Mapping[str, Space]) -> list[tuple[str, Space]]:
    """Features first, then sections before their settings, and kinds before the settings beside them."""
    return sorted(
        space.items(),
        key=lambda item: (item[0] != FEATURES, item[0].count("."), not item[0].endswith(".kind")),
    )


def _applies(data: dict, features: Sequence[str] | None, dotted: str, space: Space) -> bool:
    """Whether the setting is one, beside the others that `data` holds."""
    if dotted == FEATURES:
        return True
    parts = dotted.split(".")
    if features is not None and parts[:2] == ["model", "encoders"] and parts[2] not in features:
        return False
    changed, fault = set_at(data, dotted, space.values[0])
    return not fault and not any(
        kind == "extra_forbidden" and at == dotted for kind, at, _ in _faults(changed)
    )


def _plain(config: Config) -> dict:
    return config.model_dump(mode="json", exclude={"tune", "compare"})


def _faults(data: dict) -> list[tuple[str, str, str]]:
    """(type, path, message) of what is wrong with plain data of a config."""
    try:
        Config.model_validate(with_tuples(data))
    except ValidationError as error:
        return [(fault["type"], *explain(fault)) for fault in error.errors()]
    return []


# ------------------------------------------------------------------------------------ what is checked


def space_faults(config: Config) -> list[tuple[str, str]]:
    """Settings of `tune.space` that do not exist, and values they cannot take.

    Rules between settings (heads divide hidden) are left to the trial, which knows all its values.
    """
    data, searched = _plain(config), config.tune.space
    faults = [
        (f"tune.space.{dotted}", fault)
        for dotted, space in searched.items()
        if (fault := _misplaced(config, dotted, space))
    ]
    if faults:
        return faults
    for dotted, space in searched.items():
        if dotted == FEATURES:
            continue
        section = dotted.rpartition(".")[0]
        kinds = searched.get(f"{section}.kind")
        others = [set_at(data, f"{section}.kind", kind)[0] for kind in kinds.values] if kinds else [data]
        held = [data] if dotted == f"{section}.kind" else [x for x in others if not _type_faults(x)]
        fitting = [beside for beside in held if _applies(beside, None, dotted, space)] or held
        for value in space.values:
            for changed, fault in (set_at(beside, dotted, value) for beside in fitting):
                found = [fault] if fault else _type_faults(changed)
                faults += [
                    (f"tune.space.{dotted}", message if at == dotted else f"{value!r}: {at} {message}")
                    for at, message in found
                ]
    return merged(faults)


def _misplaced(config: Config, dotted: str, space: Space) -> str | None:
    """Why this setting is not one to search, or not in this way."""
    section, *rest = dotted.split(".")
    if dotted == FEATURES:
        known = config.features.keys()
        if space.grid is None and space.choice is None:
            return "takes a grid or choice of lists of features"
        for names in space.values:
            if not isinstance(names, list) or not names or not {*names} <= known:
                return f"{names!r} is not a list of some of {', '.join(known)}"
    elif section not in SECTIONS or not rest:
        return "only model.…, train.…, targets.… settings and features are searched"
    elif dotted == "train.monitor":
        return "is what trials are compared by"
    elif section == "targets" and rest[-1] in JUDGES:
        return "decides what trials are judged by"
    elif section == "targets" and config.train.monitor == "loss":
        return "changes the loss that trials are compared by; set train.monitor to a metric"
    elif config.tune.scheduler == "pbt" and rest[-1] not in IN_FLIGHT:
        return f"scheduler pbt changes settings in mid-training: only {', '.join(IN_FLIGHT)}"
    if config.tune.scheduler == "pbt" and dotted == FEATURES:
        return "scheduler pbt changes settings in mid-training, features cannot be"
    if config.tune.searcher == "grid" and space.grid is None and space.choice is None:
        return "has no combinations: searcher grid takes grid and choice only"
    if config.tune.searcher == "optuna" and space.grid is not None:
        return "searcher optuna draws by itself: write choice in place of grid"
    return None


def _type_faults(data: dict) -> list[tuple[str, str]]:
    return [(at, message) for kind, at, message in _faults(data) if kind != "value_error"]
