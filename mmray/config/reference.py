"""The schema → its reference, in Markdown: every key, what it may be, its default and what it means.

Descriptions are the docstrings beside the fields, so that the reference says what the code does.
"""

import ast
import enum
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mmray.config.schema import Config

__all__ = ["reference"]


def reference() -> str:
    """The whole config as Markdown: a heading a section, a row a key."""
    parts = ["# The config", (inspect.getdoc(Config) or "").strip(), _table(Config)]
    for path, section in _sections(Config, ""):
        parts += [f"## {path}", (inspect.getdoc(section) or "").strip()]
        if any(key != "kind" for key in section.model_fields):
            parts.append(_table(section))
    return "\n\n".join(parts) + "\n"


def _sections(section: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """(heading, class) of all sections below one, a kind a heading."""
    for key, field in section.model_fields.items():
        for inner in _models(field.annotation):
            container = typing.get_origin(field.annotation) is dict
            below = f"{path}{key}" + (".NAME" if container else "")
            kinds = (
                typing.get_args(inner.model_fields["kind"].annotation) if "kind" in inner.model_fields else ()
            )
            yield f"`{below}`" + (f" · kind {' or '.join(kinds)}" if kinds else ""), inner
            yield from _sections(inner, f"{below}.")


def _table(section: type[BaseModel]) -> str:
    told = _docstrings(section)
    lines = ["| key | what | default | |", "|---|---|---|---|"]
    for key, field in section.model_fields.items():
        if key != "kind":
            cells = f"`{key}`", _type(field), _default(field), told.get(key, "")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    """{field: the text that follows it in the source}, those of base classes included."""
    told: dict[str, str] = {}
    for each in reversed(section.__mro__):
        if not (issubclass(each, BaseModel) and each.model_fields and each.__module__.startswith("mmray.")):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef), "the source of a class is a class"
        for field, text in zip(tree.body, tree.body[1:]):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    told[name] = " ".join(words.split())
    return told


def _type(field: FieldInfo) -> str:
    limits = [
        f"{sign} {bound}"
        for each in field.metadata
        for sign, name in (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt"))
        if (bound := getattr(each, name, None)) is not None
    ]
    marks = [mark.value for mark in field.metadata if isinstance(mark, enum.Enum)]
    words = str(marks[0]).partition(" where")[0] if marks else _words(field.annotation)
    return words + (f" {', '.join(limits)}" if limits else "")


def _words(kind: Any) -> str:
    """A type as people say it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        marks = [mark.value for mark in arguments[1:] if isinstance(mark, enum.Enum)]
        return str(marks[0]).partition(" where")[0] if marks else _words(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(each) for each in arguments))
    if origin is dict:
        return f"{{{_words(arguments[0])}: {_words(arguments[1])}}}"
    if origin in (list, tuple):
        return f"[{', '.join(dict.fromkeys(_words(each) for each in arguments if each is not Ellipsis))}]"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    names = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", type(None): "`null`"}
    return names.get(kind, "anything")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else ""
    if isinstance(field.default, BaseModel):
        return ""
    if field.default is None:
        return "`null`"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return list(dict.fromkeys(model for each in typing.get_args(kind) for model in _models(each)))
