"""Records: typed dictionaries as JSON files hold them, read by one reader that names file and field of a fault.

A record is a `TypedDict`. Its fields may be ``Annotated`` with `Bounds` of a number, with a `Pattern` of a text, or
with `Open` for a record that other versions know other fields of. Its JSON schema is made from the same definition.
"""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from typing_extensions import NotRequired, Required, get_type_hints, is_typeddict

from ..errors import UserError, did_you_mean
from .options import Bounds, shortened

__all__ = ["Open", "Pattern", "check_record", "read_record", "schema_of"]

Record = TypeVar("Record")
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


@dataclass(frozen=True)
class Pattern:
    """What a text must match, as a whole."""

    regex: str


@dataclass(frozen=True)
class Open:
    """Fields may be there that the record does not name."""


class _FaultError(Exception):
    """What is wrong, and the fields on the way there."""

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.path = path


def check_record(kind: type[Record], value: object, source: str) -> Record:
    """The value as a record.

    Raises:
        UserError: Names `source`, the field and the fault.
    """
    try:
        _check(kind, value)
    except _FaultError as fault:
        where = " -> ".join(reversed(fault.path)) or "the top level"
        raise UserError(f"{source}, {where}: {fault}") from None
    return cast(Record, value)


def read_record(kind: type[Record], path: Path) -> Record:
    """A JSON file as a record.

    Raises:
        UserError: No such file, no JSON, or not as the record says.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    return check_record(kind, value, str(path))


def _check(kind: Any, value: object, notes: tuple[Any, ...] = ()) -> None:
    """Refuse (_FaultError) a value that is not of a kind; `notes` are what stands beside it in ``Annotated``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        _check(arguments[0], value, arguments[1:])
    elif origin in (NotRequired, Required):
        _check(arguments[0], value, notes)
    elif origin in (types.UnionType, typing.Union):
        if value is not None or type(None) not in arguments:
            _check(next(each for each in arguments if each is not type(None)), value, notes)
    elif origin is Literal:
        if value not in arguments:
            raise _FaultError(f"{shortened(value)} is none of {', '.join(map(str, arguments))}")
    elif origin in (list, tuple):
        _check_list(arguments, value, origin is tuple and arguments[-1] is not Ellipsis)
    elif origin is dict:
        _check_entries({}, arguments[1], value, ())
    elif is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        opened = any(isinstance(note, Open) for note in notes)
        _check_entries(hints, object if opened else None, value, kind.__required_keys__)
    elif kind not in (object, Any):
        _check_plain(kind, value, notes)


def _check_list(kinds: tuple[Any, ...], value: object, fixed: bool) -> None:
    if not isinstance(value, list | tuple):
        raise _FaultError(f"must be a list, got {shortened(value)}")
    if fixed and len(value) != len(kinds):
        raise _FaultError(f"must have {len(kinds)} entries, got {len(value)}")
    for index, each in enumerate(value):
        _below(str(index), kinds[index] if fixed else kinds[0], each)


def _check_entries(hints: Mapping[str, Any], others: Any, value: object, required: Any) -> None:
    """A mapping whose fields have the kinds of `hints`, and `others` where it may have other fields."""
    if not isinstance(value, Mapping):
        raise _FaultError(f"must hold fields, got {shortened(value)}")
    missing = [key for key in hints if key in required and key not in value]
    if missing:
        raise _FaultError(f"{missing[0]!r} is a required field")
    for key, each in value.items():
        if key not in hints and others is None:
            raise _FaultError(f"{shortened(key)} is not one of its fields; {did_you_mean(str(key)[:60], hints)}")
        _below(str(key), hints.get(key, others), each)


def _below(key: str, kind: Any, value: object) -> None:
    try:
        _check(kind, value)
    except _FaultError as fault:
        raise _FaultError(str(fault), *fault.path, key) from None


def _check_plain(kind: Any, value: object, notes: tuple[Any, ...]) -> None:
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) is not (kind is bool):
        raise _FaultError(f"{shortened(value)} is not {WORDS[kind]}")
    for note in notes:
        if isinstance(note, Bounds) and not note.hold(cast(float, value)):
            raise _FaultError(f"{shortened(value)} is not a number {note}")
        if isinstance(note, Pattern) and not re.fullmatch(note.regex, cast(str, value)):
            raise _FaultError(f"{shortened(value)} does not match {note.regex!r}")


def schema_of(kind: Any, notes: tuple[Any, ...] = ()) -> dict[str, object]:
    """JSON schema (2020-12) of a kind."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return schema_of(arguments[0], arguments[1:])
    if origin in (NotRequired, Required):
        return schema_of(arguments[0], notes)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [schema_of(each, notes if each is not type(None) else ()) for each in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1] is not Ellipsis:
        items: dict[str, object] = {"prefixItems": [schema_of(each) for each in arguments], "items": False}
        return {"type": "array", **items, "minItems": len(arguments)}
    if origin in (list, tuple):
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        return {
            "description": " ".join((kind.__doc__ or "").split()),
            "type": "object",
            "required": sorted(kind.__required_keys__),
            "properties": {key: schema_of(each) for key, each in hints.items()},
            "additionalProperties": any(isinstance(note, Open) for note in notes),
        }
    if kind in (object, Any):
        return {}
    return {"type": JSON_TYPES[kind], **_limits(notes)}


def _limits(notes: tuple[Any, ...]) -> dict[str, object]:
    """Bounds and patterns as a schema says them."""
    names = {"least": "minimum", "most": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}
    found: dict[str, object] = {}
    for note in notes:
        if isinstance(note, Pattern):
            found["pattern"] = f"^(?:{note.regex})$"
        if isinstance(note, Bounds):
            found |= {names[key]: value for key, value in dataclasses.asdict(note).items() if value is not None}
    return found
