"""A pydantic error → the path as the user wrote it, what is wrong and what to write."""

import difflib
import re
import types
import typing
from typing import Annotated, Any

from pydantic import BaseModel

from mmray.config.schema import Config

__all__ = ["did_you_mean", "explain", "merged"]


def explain(fault: Any) -> tuple[str, str]:
    """A pydantic error → (dotted path as the user wrote it, what is wrong and what to write)."""
    location, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    keys, model, annotation = _follow(location)
    path = _cut(".".join(keys))
    got = fault.get("input")
    if kind == "extra_forbidden":
        known = list(model.model_fields) if model else []
        hint = did_you_mean(keys[-1], known)
        return path, f"unknown key{hint or '; known keys: ' + ', '.join(known)}"
    if kind == "missing":
        return path, "is required"
    if kind in ("model_type", "dict_type"):
        return path, f"must be a mapping of settings, got {_short(got)}"
    if kind in ("list_type", "tuple_type"):
        return path, f"must be a list, got {_short(got)}"
    if kind in ("union_tag_invalid", "literal_error"):
        allowed = context.get("expected_tags") or context.get("expected", "")
        tag = context.get("tag", got)
        names = re.findall(r"'([^']+)'", allowed)
        where = f"{path}.kind" if kind == "union_tag_invalid" else path
        return where, f"{_short(tag)} is not one of {', '.join(names)}{did_you_mean(str(tag), names)}"
    if kind == "union_tag_not_found":
        tags = ", ".join(tag for option in _models(annotation) for tag in _tags(option))
        return f"{path}.kind", f"is required: one of {tags}"
    if kind == "value_error":
        return path, str(context["error"])
    if kind == "string_pattern_mismatch":
        return path, f"{_short(got)}: a name is lower-case letters, digits and _, starting with a letter"
    message = re.sub(r"^Input should", "should", fault["msg"])
    return path, f"{message[0].lower()}{message[1:]}, got {_short(got)}"


def _cut(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:200]}…"


def _short(value: Any) -> str:
    """A value as it may be printed: cut, and without the password of a URI."""
    if value is None:
        return "nothing"
    shown = re.sub(r"://[^/?#\s]*@", "://…@", repr(value)[:1000])
    return shown if len(shown) <= 60 else f"{shown[:57]} …"


def merged(faults: typing.Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """One line a path: the branches of a union (`auto` or a number) each bring a fault."""
    by_path: dict[str, list[str]] = {}
    for path, message in faults:
        by_path.setdefault(path, []).append(message)
    return [(path, "; or ".join(dict.fromkeys(messages))) for path, messages in by_path.items()]


def _follow(location: tuple) -> tuple[list[str], type[BaseModel] | None, Any]:
    """Drop from a pydantic location what the user did not write (union tags, '[key]').

    Returns the keys, the model that owns the last of them, and that one's annotation.
    """
    keys: list[str] = []
    owner: type[BaseModel] | None = Config
    kind: Any = Config
    for part in location:
        options = _models(kind)
        tagged = [model for model in options if part in _tags(model) or part == model.__name__]
        container = _container(kind)
        if tagged and (len(options) > 1 or container):
            kind = tagged[0]
            continue
        # Of a mapping, a list or a word, the branches are called dict[…], tuple[…] and literal[…].
        if part == "[key]" or not (options or container) or re.match(r"(dict|literal|tuple)\[", str(part)):
            continue
        keys.append(str(part))
        if options and not (container and isinstance(part, int)):
            owner = next((m for m in options if part in m.model_fields), options[0])
            field = owner.model_fields.get(part) if isinstance(part, str) else None
            kind = field.annotation if field else None
        else:
            owner, kind = None, typing.get_args(container)[-1]
    return keys, owner, kind


def _models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if typing.get_origin(kind) is Annotated:
        return _models(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [model for option in typing.get_args(kind) for model in _models(option)]
    return []


def _tags(model: type[BaseModel]) -> tuple:
    field = model.model_fields.get("kind")
    return typing.get_args(field.annotation) if field else ()


def _container(kind: Any) -> Any:
    """The dict, list or tuple among the options of an annotation, if there is one."""
    if typing.get_origin(kind) is Annotated:
        return _container(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next((found for option in typing.get_args(kind) if (found := _container(option))), None)
    return kind if typing.get_origin(kind) in (dict, list, tuple) else None


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known word is close, else nothing."""
    close = difflib.get_close_matches(word[:100], list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
