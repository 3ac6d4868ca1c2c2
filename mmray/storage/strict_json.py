"""Plain values → JSON that every reader takes: an undefined number is null, never NaN or Infinity."""

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["dumps"]


def dumps(value: Any, indent: int | None = None) -> str:
    """`value` as strict JSON (RFC 8259), which has no NaN: an undefined metric is null."""
    return json.dumps(_null_for_undefined(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _null_for_undefined(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _null_for_undefined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_undefined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
