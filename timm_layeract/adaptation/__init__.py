"""Turning a trained network into one with another activation, in a few epochs: `adapt`."""

from .adapt import adapt

__all__ = ["adapt"]
