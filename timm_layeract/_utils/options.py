"""Options as fields of dataclasses: what each means, which values it takes, and the one line that refuses any other."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import UserError

__all__ = ["Bounds", "Option", "check_options", "options_of", "shortened"]

KIND_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Bounds:
    """Which numbers are allowed: finite ones, from `least` to `most`, above `above` and below `below`."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        words = {"above": self.above, "from": self.least, "to": self.most, "below": self.below}
        return " ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)

    def hold(self, value: float) -> bool:
        """Whether a number is allowed."""
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class Option:
    """What stands beside a field's type in ``Annotated``.

    Attributes:
        help: What it does, for a person to read.
        short: One letter for the command line, as ``-m``.
        flag: Its name there, where it is not the field's.
        bounds: Allowed range, if it is a number.
    """

    help: str
    short: str | None = None
    flag: str | None = None
    bounds: Bounds = Bounds()

    def spelt(self, name: str) -> str:
        """How the command line spells it, as the field of that name."""
        return self.flag or f"--{name.replace('_', '-')}"


def options_of(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any, Option]]:
    """The fields of a dataclass that are options: each with its type and what is said of it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        annotation = hints[field.name]
        if typing.get_origin(annotation) is typing.Annotated:
            declared, *metadata = typing.get_args(annotation)
            yield from ((field, declared, each) for each in metadata if isinstance(each, Option))


def check_options(instance: Any) -> None:
    """Refuse (UserError) a value of the wrong kind or out of bounds, by the option's name."""
    for field, declared, option in options_of(type(instance)):
        value = getattr(instance, field.name)
        kinds = typing.get_args(declared) if isinstance(declared, types.UnionType) else (declared,)
        kind = next(each for each in kinds if each is not type(None))
        if (value is None and type(None) in kinds) or kind not in KIND_NAMES:
            continue
        flag = option.spelt(field.name)
        fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) is (kind is bool)
        if not fits or (kind in (int, float) and not option.bounds.hold(value)):
            raise UserError(f"{flag} takes {KIND_NAMES[kind]} {option.bounds}".rstrip() + f", got {shortened(value)}.")
        if kind is str and not value.strip():
            raise UserError(f"{flag} is empty.")


def shortened(value: object) -> str:
    """A value as an error shows it, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
