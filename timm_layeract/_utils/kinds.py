"""Plain values, as files of options hold them, as the kinds that the options have."""

import types
import typing
from typing import Any, Literal

from ..errors import UserError
from .options import shortened

__all__ = ["as_kind"]


def as_kind(value: Any, kind: Any, where: str) -> Any:
    """`value` as the annotated kind (YAML has no tuples and reads 1e-4 as text), or a UserError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value in arguments and isinstance(value, str):
            return value
        # YAML reads a bare `no` as False.
        if value is False and "no" in arguments:
            return "no"
        if isinstance(value, bool) and str(value).lower() in arguments:
            return str(value).lower()
        raise UserError(f"{where} must be one of {', '.join(arguments)}, got {shortened(value)}.")
    if origin in (types.UnionType, typing.Union):
        return None if value is None else as_kind(value, arguments[0], where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, got {shortened(value)}.")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise UserError(f"{where} must have {len(kinds)} entries, got {shortened(value)}.")
        return tuple(as_kind(item, item_kind, where) for item, item_kind in zip(value, kinds, strict=True))
    if kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
        raise UserError(f"{where} must be {kind.__name__}, got {shortened(value)}.")
    if kind is str:
        if isinstance(value, str):
            return value
        raise UserError(f"{where} must be text, got {shortened(value)}.")
    try:
        converted = kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where} must be a {'whole ' * (kind is int)}number, got {shortened(value)}.") from error
    if kind is int and converted != value:
        raise UserError(f"{where} must be a whole number, got {shortened(value)}.")
    return converted
