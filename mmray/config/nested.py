"""Values at dotted paths of nested plain data."""

import typing
from typing import Any

__all__ = ["assign", "set_at", "with_tuples"]


def assign(data: dict, values: typing.Iterable[tuple[str, Any]]) -> tuple[dict, list[tuple[str, str]]]:
    """Nested `data` with values at dotted paths, and the faults of those that cannot be there."""
    faults = []
    # A kind resets the settings beside it, so kinds go first.
    for dotted, value in sorted(values, key=lambda item: not item[0].endswith(".kind")):
        data, fault = set_at(data, dotted, value)
        faults += [fault] if fault else []
    return data, faults


def set_at(data: dict, dotted: str, value: Any) -> tuple[dict, tuple[str, str] | None]:
    """A copy of nested `data` with the value at a dotted path, or the fault that prevents it."""
    key, _, rest = dotted.partition(".")
    if not rest:
        another_kind = key == "kind" and data.get("kind") not in (None, value)
        return {**({} if another_kind else data), key: value}, None
    child = data.get(key)
    if child is not None and not isinstance(child, dict):
        return data, (dotted, f"{key!r} is a value, it has no keys below it")
    new_child, fault = set_at(child or {}, rest, value)
    return {**data, key: new_child}, fault and (dotted, fault[1])


def with_tuples(data: Any) -> Any:
    """YAML has lists only; strict tuple fields (crop, ranges) want tuples."""
    if isinstance(data, dict):
        return {
            key: tuple(value)
            if key in ("crop", "uniform", "log_uniform") and isinstance(value, list)
            else with_tuples(value)
            for key, value in data.items()
        }
    return data
