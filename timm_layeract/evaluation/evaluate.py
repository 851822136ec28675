"""`layeract evaluate`: accuracy of a classifier on a data set, to the last digit what timm's validate.py gives.

Images go through timm's own transforms, as the checkpoint's config says: resized by `crop_pct`, cropped by `crop_mode`,
never squashed unless that says so.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import Dataset

from .._utils.files import Surroundings, surroundings, write_json
from .._utils.names import dataset_name
from .._utils.progress import tracked
from .._utils.timm_types import DataConfig
from ..data.brightness import recorded_brightness
from ..data.classes import check_channels, check_classes
from ..data.columns import Columns
from ..data.test_images import TestRows, encoded_test_rows
from ..errors import UserError
from ..networks import load_network
from ..training.loading import RowLoader
from ..training.processes import process_state

__all__ = ["Evaluation", "Transformed", "evaluate", "preprocessing", "read_indices"]


class EvaluationSettings(DataConfig):
    """How the images were prepared, which outputs counted, and in which precision."""

    upright: bool
    valid_labels: list[int]
    bf16: bool


class Evaluation(Surroundings):
    """``top1`` and ``top5`` in percent, ``loss`` (mean cross-entropy) and ``count`` of images."""

    model: str
    data: str
    split: str
    top1: float
    top5: float
    loss: float
    count: int
    settings: EvaluationSettings


@dataclass(frozen=True)
class Transformed(Dataset[tuple[Tensor, int]]):
    """Images of a split as a network takes them.

    Attributes:
        rows: Encoded images and labels.
        transform: From a PIL image to ``(C, H, W)``.
        mode: PIL's mode of what the network takes: ``"RGB"``, or ``"L"`` for one channel.
        upright: Turn photographs as their EXIF orientation says. timm does not.
    """

    rows: TestRows
    transform: Callable[[Image.Image], Tensor]
    mode: str
    upright: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.rows.images.open(index, self.upright)
        return self.transform(picture.convert(self.mode)), int(self.rows.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        images = torch.stack([self[index][0] for index in indices])
        return images, self.rows.labels[torch.as_tensor(indices)]


def preprocessing(network: nn.Module, **changes: Any) -> DataConfig:
    """How timm evaluates a network, from its config, at its test size if that has one, but for `changes` (not None)."""
    given = {key: value for key, value in changes.items() if value is not None}
    resolved: DataConfig = resolve_data_config(given, model=network, use_test_size=True)
    return resolved


def evaluate(
    model: str,
    data: str,
    output: str | Path | None = None,
    *,
    split: str | None = None,
    image_size: int | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    interpolation: str | None = None,
    upright: bool = True,
    valid_labels: Sequence[int] = (),
    batch_size: int = 256,
    bf16: bool = False,
    workers: int | None = None,
    columns: Columns | None = None,
    data_name: str | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> Evaluation:
    """Measure a classifier; on several processes, each takes some of the batches, and the figures are the same.

    Args:
        model: As `networks.load_network`.
        data: Folder or Hub data set, as for training; it needs no training split.
        output: JSON file for the result.
        split: Which part of the data; by default the test split, else the validation split, else the only one.
        image_size: Side that images are cropped to, instead of the config's.
        crop_pct: Share of the resized image that is kept, instead of the config's.
        crop_mode: ``center``, ``squash`` or ``border``, instead of the config's.
        interpolation: ``bilinear``, ``bicubic``, ..., instead of the config's.
        upright: Turn photographs as their EXIF orientation says; timm's validate.py does not.
        valid_labels: Outputs of the network that the data's classes are, in their order, where it knows more of them
            (ImageNet-A and -R); all if empty.
        batch_size: Images at once.
        bf16: Compute under bfloat16 autocast.
        workers: Processes that decode images; one a core if None, 0 for none.
        columns: Which columns of the data, where several may be meant.
        data_name: What the result calls the data; the last part of `data` if None.
        progress: Show a progress bar.
        report: Called with lines for a person to read.

    Returns:
        What the file for the result holds.

    Raises:
        UserError: No such model, data or split; classes that are not the network's; unreadable images.
    """
    network = load_network(model)
    settings = preprocessing(
        network,
        input_size=None if image_size is None else (int(network.in_chans), image_size, image_size),  # type: ignore[arg-type]
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        interpolation=interpolation,
    )
    rows = encoded_test_rows(data, split, columns, recorded_brightness(network))
    if not getattr(network, "num_classes", 0):
        raise UserError(f"{model} does not say how many classes it has (num_classes).")
    way_out = "where they are some of the network's, give --valid-labels, a file with the network's output for each"
    check_classes(rows.classes, network, valid_labels, way_out)
    check_channels(network)
    mode = "L" if settings["input_size"][0] == 1 else "RGB"
    images = Transformed(rows, create_transform(**settings), mode, upright)
    state = process_state()
    ranks, losses = _measure(
        network.to(state.device).eval(),
        images,
        torch.tensor(valid_labels, dtype=torch.int64),
        batch_size,
        bf16,
        (os.cpu_count() or 1) if workers is None else workers,
        progress and state.is_main_process,
    )
    result: Evaluation = {
        "model": model,
        "data": data_name or dataset_name(data),
        "split": rows.split,
        "top1": 100 * float((ranks < 1).double().mean()),
        "top5": 100 * float((ranks < 5).double().mean()),
        "loss": float(losses.mean()),
        "count": len(rows),
        "settings": {**settings, "upright": upright, "valid_labels": list(valid_labels), "bf16": bf16},
        **surroundings(state.device.type, ("timm-layeract", "torch", "timm", "pillow")),
    }
    if state.is_main_process:
        if output is not None:
            write_json(Path(output), result)
        report(
            f"{model} on the {rows.split} split of {result['data']}: top-1 {result['top1']:.2f} %, "
            f"top-5 {result['top5']:.2f} %, loss {result['loss']:.4f}, {len(rows):,} images at "
            f"{'x'.join(map(str, settings['input_size'][1:]))}"
        )
    return result


def read_indices(path: Path) -> tuple[int, ...]:
    """Numbers in a text file, one a line (timm's ``--valid-labels``)."""
    try:
        return tuple(int(line) for line in path.read_text().split())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a file of whole numbers, one a line ({error}).") from error


@torch.inference_mode()
def _measure(
    network: nn.Module, images: Transformed, valid: Tensor, batch_size: int, bf16: bool, workers: int, progress: bool
) -> tuple[Tensor, Tensor]:
    """For each image, how many classes are ahead of the right one, int64 ``(N,)``, and the loss, float64 ``(N,)``."""
    state = process_state()
    batches = [list(range(start, min(start + batch_size, len(images)))) for start in range(0, len(images), batch_size)]
    # Whole batches are shared out: what an image gives may depend on those beside it, in the last digits.
    own = batches[state.process_index :: state.num_processes]
    loader = RowLoader(images, min(workers, len(own)), pin_memory=False, keep=False)(own)
    found: list[tuple[int, Tensor, Tensor]] = []
    for batch, (inputs, labels) in zip(own, tracked(loader, "evaluating", progress, len(own)), strict=True):
        with torch.autocast(state.device.type, torch.bfloat16, enabled=bf16):
            logits = network(inputs.to(state.device))
        logits = logits.float().cpu()
        if len(valid):
            logits = logits[:, valid]
        right = logits.gather(1, labels[:, None])
        # a tie goes to the class that comes first, as it does in topk
        ahead = (logits > right) | ((logits == right) & (torch.arange(logits.shape[1]) < labels[:, None]))
        found.append((batch[0], ahead.sum(1), F.cross_entropy(logits.double(), labels, reduction="none")))
    everything = sorted(gather_object(found) if state.num_processes > 1 else found, key=lambda each: each[0])
    return torch.cat([each[1] for each in everything]), torch.cat([each[2] for each in everything])
