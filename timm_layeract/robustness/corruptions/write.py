"""Writing corrupted sets in CIFAR-10-C's layout, which `released` and other programs read: `layeract corrupt`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import TypedDict

from ..._utils.files import write_json
from ..._utils.records import read_record
from ..._utils.writing import check_folder, is_partial, writing
from ...data.columns import Columns
from ...data.test_images import load_test_split
from ...errors import UserError
from .constants import CORRUPTIONS, SEVERITIES
from .generate import VERSIONS, RegeneratedSets

__all__ = ["write_sets"]

RECORD = "sets.json"


class Written(TypedDict):
    """What sets a folder holds, and what they were made of."""

    of: str
    seed: int
    sets: dict[str, list[str]]
    versions: dict[str, str]


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
    """Corrupt the test images of a data set and write them; given again, what is still missing.

    Args:
        data: As `load_test_split` takes it.
        output: Folder, new, empty or of these sets, for ``CORRUPTION.npy`` (uint8 ``(5 N, H, W, 3)``), ``labels.npy``
            and ``sets.json``: the hash of each set, as robustness results have it, and the versions that made it.
        image_size: (H, W) that other images are resized to.
        corruptions: Which.
        seed: Another seed, other sets.
        columns: Which columns of the data, where several may be meant.
        progress: Show a progress bar while decoding.
        report: Called with a line for each corruption.

    Raises:
        UserError: No such data or corruption; the folder holds something else.
    """
    folder = Path(output)
    check_folder(folder)
    path = folder / RECORD
    before = read_record(Written, path) if path.exists() else None
    if before is None and folder.exists() and not all(map(is_partial, folder.iterdir())):
        raise UserError(f"{folder} is not empty; give another --output.")
    clean = load_test_split(data, image_size, progress, columns)
    sets = RegeneratedSets(clean, seed)
    record: Written = {"of": clean.sha256(), "seed": seed, "sets": {}, "versions": VERSIONS}
    if before is not None:
        if {**before, "sets": {}} != record:
            raise UserError(f"{folder} holds sets of other images, another seed or versions; give another --output.")
        record["sets"] = {name: each for name, each in before["sets"].items() if (folder / f"{name}.npy").exists()}
    write_json(path, record)
    _save(folder / "labels.npy", np.tile(clean.labels.numpy(), len(SEVERITIES)))
    for name in corruptions:
        if name not in record["sets"]:
            splits = [sets.load(name, severity) for severity in SEVERITIES]
            images = [split.images.permute(0, 2, 3, 1).numpy() for split in splits]
            _save(folder / f"{name}.npy", np.concatenate(images))
            record["sets"][name] = [split.sha256() for split in splits]
            write_json(path, record)
        report(f"{name}.npy")


def _save(path: Path, array: np.ndarray) -> None:
    with writing(path) as file:
        np.save(file, array)
