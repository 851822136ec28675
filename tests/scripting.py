"""TorchScript, which torch calls deprecated since some versions."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def scripting() -> Iterator[None]:
    """Script without the warning that it is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit", FutureWarning)
        yield
