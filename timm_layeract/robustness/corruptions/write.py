"""Writing corrupted sets in CIFAR-10-C's layout, which `released` and other programs read: `layeract corrupt`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..._utils.files import write_json
from ..._utils.writing import check_folder, writing
from ...data.columns import Columns
from ...data.test_images import load_test_split
from ...errors import UserError
from .constants import CORRUPTIONS, SEVERITIES
from .generate import VERSIONS, RegeneratedSets

__all__ = ["write_sets"]


def write_sets(
    data: str,
    output: str | Path,
    image_size: tuple[int, int],
    corruptions: Sequence[str] = CORRUPTIONS,
    seed: int = 0,
    columns: Columns | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> None:
    """Corrupt the test images of a data set and write them.

    Args:
        data: As `load_test_split` takes it.
        output: New folder for ``CORRUPTION.npy`` (uint8 ``(5 N, H, W, 3)``), ``labels.npy`` and ``sets.json``: the
            hash of each set, as robustness results have it, and the versions that made it.
        image_size: (H, W) that other images are resized to.
        corruptions: Which.
        seed: Another seed, other sets.
        columns: Which columns of the data, where several may be meant.
        progress: Show a progress bar while decoding.
        report: Called with a line for each corruption.

    Raises:
        UserError: No such data or corruption; the folder holds something.
    """
    folder = Path(output)
    check_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; give another --output.")
    clean = load_test_split(data, image_size, progress, columns)
    sets = RegeneratedSets(clean, seed)
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "labels.npy", np.tile(clean.labels.numpy(), len(SEVERITIES)))
    hashes: dict[str, list[str]] = {}
    for name in corruptions:
        splits = [sets.load(name, severity) for severity in SEVERITIES]
        _save(folder / f"{name}.npy", np.concatenate([split.images.permute(0, 2, 3, 1).numpy() for split in splits]))
        hashes[name] = [split.sha256() for split in splits]
        report(f"{name}.npy")
    record = {"of": clean.sha256(), "seed": seed, "sets": hashes, "versions": VERSIONS}
    write_json(folder / "sets.json", record)


def _save(path: Path, array: np.ndarray) -> None:
    with writing(path) as file:
        np.save(file, array)
