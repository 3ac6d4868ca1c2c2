"""A column of labels, from whatever source → the values of its target: one set of rules for all sources.

    a class    a text without the spaces around it; a whole number is written without a point, so that 1,
               1.0, "1" and "1.0" are one class in JSON, CSV, Parquet and arrays alike; true is `True`
    a set      a list, or `a|b` (a lone `|`: none of them); a row of 0 and 1 is read by the target's `classes`
    a number   finite; of texts only plain decimal ones

Null, NaN, an empty cell: the label is not known. A text that stands for a missing value (`nan`, `None`,
…), a list written as a text, 0 and 1 beside true and false are refused with what to do, unless `classes`
names them.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa

from mmray.targets import Target

__all__ = ["LabelColumn", "label", "number", "shown"]

NOTHING = frozenset(
    [
        *("nan", "-nan", "none", "null", "nil", "na", "n/a", "n.a.", "<na>", "nat", "1.#ind", "-1.#ind"),
        *("#na", "#n/a", "#value!", "#ref!", "#null!", "#div/0!", "\\n", "?", "--", "undefined"),
    ]
)
"""How programs write a missing value into a text, in small letters."""
BITS = frozenset({"0", "1", "-1", "True", "False", "true", "false"})
MAX_REMEMBERED = 10_000
"""Classes whose spellings are compared; a column of more is no column of classes."""
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_POINT_ZERO = re.compile(r"(-?(?:0|[1-9]\d*))\.0+", re.ASCII)
_BITS_AS_TEXT = re.compile(r"[01](?:\.0)?(?:[ /_]?[01](?:\.0)?)+", re.ASCII)
_LIST_AS_TEXT = re.compile(r"\[.*\]|\(.*,.*\)|\{.*\}|array\(.*\)|set\(.*\)", re.DOTALL)


def shown(value: Any, letters: int = 80) -> str:
    """A value as it stands in a message: its beginning, whatever it is."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, int) and abs(value) >= 10**letters:
        return "an integer of very many digits"
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"[{', '.join(shown(item, 20) for item in value[:3])}, …] of {len(value)}"
    text = repr(value[: letters + 1] if isinstance(value, str) else value)
    return text if len(text) <= letters + 2 else f"{text[:letters]}…"


def number(value: Any) -> float:
    """A finite number; of texts only plain decimal ones (no `1_000`, no `inf`).

    Raises:
        ValueError: where it is none.
    """
    decimal = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, str):
        decimal = _DECIMAL.fullmatch(value.strip()) is not None
    try:
        found = float(value) if decimal else math.nan
    except OverflowError:
        found = math.inf
    if not decimal:
        raise ValueError(f"expected a number, got {shown(value)}")
    if not math.isfinite(found):
        raise ValueError(f"expected a finite number, got {shown(value)}")
    return found


def label(value: Any) -> str:
    """A class (or an id) as a text.

    Raises:
        ValueError: where it is neither a text nor a whole number.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        if abs(value) >= 10**300:
            raise ValueError(f"expected text or a whole number, got {shown(value)}")
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text or a whole number, got {shown(value)}")
    return value


class LabelColumn:
    """Reads the cells of one target; after the last one, says what is wrong or odd with them together."""

    def __init__(self, name: str, target: Target):
        self.name = name
        self.kind = target.arrow_type
        self.classes: list[str] | None = getattr(target, "classes", None)
        self._spelled: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._nothing: Counter[str] = Counter()
        self._rows = 0

    def read(self, value: Any) -> str | list[str] | float | None:
        """A cell in the target's type: class, list of classes or number; None where it is not known.

        Raises:
            ValueError: what is wrong with this cell alone.
        """
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, str) and (not value.strip() or self._stands_for_nothing(value)):
            return None
        self._rows += 1
        if pa.types.is_list(self.kind):
            return self._set(value)
        return self._class(value) if pa.types.is_string(self.kind) else number(value)

    def faults(self) -> list[str]:
        """What makes the column as a whole unreadable, each with what to do about it."""
        faults = []
        where = f"targets.{self.name}.classes"
        if self._nothing:
            told = ", ".join(f"{text!r} ({count})" for text, count in self._nothing.most_common(6))
            remedy = f"leave these cells empty (null), or name them in {where} if they are classes"
            if not (pa.types.is_list(self.kind) or pa.types.is_string(self.kind)):
                remedy = "leave these cells empty (null)"
            rows = self._nothing.total()
            faults.append(f"{self.name}: {told}: {rows} cells hold a text for a missing value; {remedy}")
        names = set(self._spelled) - {*(self.classes or ())}
        if names and names <= BITS and pa.types.is_list(self.kind) and not self.classes:
            faults.append(
                f"{self.name}: the only labels are {', '.join(sorted(names))}, so the rows look like "
                f"0 and 1 for each class (multi-hot); name the classes in order in {where}, or list the "
                "names of those that are 1"
            )
        elif names and pa.types.is_list(self.kind) and all(map(_BITS_AS_TEXT.fullmatch, names)):
            faults.append(
                f"{self.name}: {shown(min(names))} looks like 0 and 1 for each class (multi-hot) written as "
                "a text; list the names of those that are 1, as a|b"
            )
        elif {name.lower() for name in names} & {"true", "false"} and names & {"0", "1"}:
            told = ", ".join(spelling for name in sorted(names & BITS) for spelling in self._spelled[name])
            faults.append(
                f"{self.name}: true and false stand beside 0 and 1 ({told}): one class in two types, or "
                "different ones? Write them in one type"
            )
        return faults

    def notes(self) -> list[str]:
        """What is odd, though it can be read: one class spelled in several ways, classes that look alike."""
        notes = []
        several = {name: ways for name, ways in self._spelled.items() if len(ways) > 1}
        for name, ways in list(several.items())[:5]:
            told = ", ".join(f"{way} ({count})" for way, count in ways.most_common(5))
            notes.append(f"{self.name}: class {name!r} is written as {told}: taken as one class")
        others = {name for name in self._spelled if name != "-1"}
        if "-1" in self._spelled and pa.types.is_string(self.kind) and all(map(str.isdecimal, others)):
            notes.append(
                f"{self.name}: -1 ({self._spelled['-1'].total()}) is a class like the others; leave these "
                "cells empty (null) if it means that the label is not known"
            )
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._spelled:
            alike[_as_seen(name)].append(name)
        for names in [names for names in alike.values() if len(names) > 1][:5]:
            told = ", ".join(f"{name!r} ({self._spelled[name].total()})" for name in names)
            notes.append(
                f"{self.name}: {told} differ in case, spaces or invisible characters only: taken as "
                "different classes"
            )
        return notes

    def _stands_for_nothing(self, text: str) -> bool:
        text = text.strip()
        if text.lower() not in NOTHING or text in (self.classes or ()):
            return False
        self._nothing[text] += 1
        return True

    def _class(self, value: Any) -> str:
        if isinstance(value, list | tuple) and value and None not in [_bit(item) for item in value]:
            raise ValueError(f"{shown(value)} is a row of 0 and 1: give the class, or use kind: multilabel")
        name = label(value).strip()
        if name not in (self.classes or ()):
            if _LIST_AS_TEXT.fullmatch(name):
                raise ValueError(f"{shown(name)} is a list written as a text; {self._how_sets_are_given()}")
            if whole := _POINT_ZERO.fullmatch(name):
                name = "0" if whole[1] == "-0" else whole[1]
        if name in self._spelled or len(self._spelled) < MAX_REMEMBERED:
            self._spelled[name][shown(value) if isinstance(value, str) else str(value)] += 1
        return name

    def _set(self, value: Any) -> list[str]:
        if isinstance(value, str):
            value = self._split(value)
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list of labels, or a|b, got {shown(value)}")
        bits = [_bit(item) for item in value]
        if self.classes and value and None not in bits and not {"0", "1"} & {*self.classes}:
            if len(value) != len(self.classes):
                raise ValueError(
                    f"a row of {len(value)} times 0 or 1 ({shown(value)}), but {len(self.classes)} classes"
                )
            return [name for name, bit in zip(self.classes, bits, strict=True) if bit]
        names = [
            self._class(item)
            for item in value
            if item is not None and not (isinstance(item, str) and self._stands_for_nothing(item))
        ]
        labels = list(dict.fromkeys(names))
        if len(labels) < len(names) and not all(isinstance(item, str) for item in value):
            raise ValueError(
                f"a number stands twice in {shown(value)}; of a row of 0 and 1, list the classes that are 1, "
                f"or name all classes in targets.{self.name}.classes"
            )
        return labels

    def _split(self, text: str) -> list[str]:
        """`a|b` → its labels."""
        if text.strip() in (self.classes or ()):
            return [text.strip()]
        if _LIST_AS_TEXT.fullmatch(text.strip()):
            raise ValueError(f"{shown(text)} is a list written as a text; {self._how_sets_are_given()}")
        labels = [part.strip() for part in text.split("|") if part.strip()]
        for part in labels:
            if re.search(r"[,;\t\n]", part) and part not in (self.classes or ()):
                raise ValueError(
                    f"{shown(part)}: is it one label, or several? {self._how_sets_are_given()}, or name "
                    f"it in targets.{self.name}.classes"
                )
        return labels

    def _how_sets_are_given(self) -> str:
        kind = "" if pa.types.is_list(self.kind) else " of a target of kind multilabel"
        return f"give the labels{kind} as a|b, or as a list in JSON or Parquet"


def _as_seen(name: str) -> str:
    """What is left of a class without what one does not see: its case, spaces, invisible characters."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(letter for letter in plain if unicodedata.category(letter) != "Cf").split())


def _bit(value: Any) -> bool | None:
    """0 or 1 in any type; None where it is something else."""
    if isinstance(value, str):
        return {"0": False, "1": True, "0.0": False, "1.0": True}.get(value.strip())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None
