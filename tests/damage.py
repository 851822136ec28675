"""What can happen to a weight file, and what is said of it; a disk that is full."""

import pickle
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def room(size: int) -> Iterator[Callable[[int], None]]:
    """No file of this process grows beyond `size` bytes, by the system itself; what is given takes another size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    limit(size)
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [1.0]}))


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5000] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = [
    (truncated, r"is no whole safetensors file .*cut short or damaged; delete it"),
    (pickled, r"is no whole safetensors file"),
    (empty, r"is no whole safetensors file"),
    (one_bit, r"is not the file that was published: its sha256 is \w{64}, it should be \w{64}"),
]
