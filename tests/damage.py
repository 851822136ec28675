"""What can happen to a weight file, and what is said of it."""

import pickle
from pathlib import Path


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
    (truncated, r"is not a complete safetensors file .*cut short or damaged; delete it"),
    (pickled, r"is not a complete safetensors file"),
    (empty, r"is not a complete safetensors file"),
    (one_bit, r"is not the file that was published: its sha256 is \w{64}, it should be \w{64}"),
]
