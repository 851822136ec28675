"""`UnitInput` by its earlier path."""

from ..networks import UnitInput

__all__ = ["UnitInput"]
