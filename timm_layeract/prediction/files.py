"""Segmenting image files: a network by name, images in, masks and pictures of them out: `layeract predict`."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from .._utils.writing import check_folder
from ..compat.torch import accelerator
from ..data.augment import normalize
from ..data.brightness import Brightness, recorded_brightness
from ..data.classes import check_channels, label_names
from ..data.images import large_images, read_image
from ..data.pictures import indexed, labels_of, overlay, save_png, with_legend
from ..data.tiles import check_tiles, count_tiles, of_side, predict_bands, recorded_size, tiles_for
from ..errors import UserError
from ..networks import load_network
from .inputs import SUFFIXES, Input, find_inputs, nothing_to

__all__ = ["Segmenter", "load_segmenter", "predict_files"]


@dataclass(frozen=True)
class Segmenter:
    """A segmentation network, ready to use.

    Attributes:
        model: In evaluation mode, on the accelerator if there is one.
        mean: Mean of each input channel, on a scale of 0 to 1.
        std: Deviation of each input channel.
        stride: The network halves its input so often: a multiple of it is what it takes best.
        names: Of its classes, one of them that of the foreground; numbers where it does not say.
        size: Side that images are resized to, as in its training; None for tiles.
        brightness: What images of more than 8 bits were scaled by in its training, None where they had 8.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride: int
    names: tuple[str, ...]
    brightness: Brightness | None = None
    size: int | None = None

    def probabilities(
        self, image: Tensor, tile: int, overlap: int, advance: Callable[[], object] | None = None
    ) -> Tensor:
        """uint8 ``(3, H, W)`` to probabilities ``(K, H, W)``, see `tiles.predict_bands`."""
        return torch.cat(list(self._bands(image, tile, overlap, advance)), 1)

    def classes(
        self,
        image: Tensor,
        tile: int,
        overlap: int,
        threshold: float = 0.5,
        advance: Callable[[], object] | None = None,
    ) -> Tensor:
        """uint8 ``(3, H, W)`` to the class of each pixel, uint8 ``(H, W)`` on the CPU; see `classes`."""
        found, top = torch.empty(image.shape[-2:], dtype=torch.uint8), 0
        for band in self._bands(image, tile, overlap, advance):
            found[top : top + band.shape[1]] = classes(band, threshold)
            top += band.shape[1]
        return found

    def _bands(self, image: Tensor, tile: int, overlap: int, advance: Callable[[], object] | None) -> Iterator[Tensor]:
        device = next(self.model.parameters()).device

        def prepare(window: Tensor) -> Tensor:
            return normalize(window.to(device), self.mean, self.std)

        if self.size is None:
            return predict_bands(self.model, image, tile, overlap, self.stride, advance, prepare)
        small = resize(image, [self.size, self.size], antialias=True)
        side = self.size + -self.size % self.stride
        found = torch.cat(list(predict_bands(self.model, small, side, 0, self.stride, advance, prepare)), 1)
        return iter([F.interpolate(found[None], image.shape[-2:], mode="bilinear")[0]])


def load_segmenter(network: nn.Module | str) -> Segmenter:
    """Make a trained network ready.

    Args:
        network: Itself, or its name in the grammar of `networks.source` (``unet_lasilu.nuclei``, ...). A network of
            segmentation_models_pytorch is taken to be trained with ImageNet's mean and deviation, as its encoders are.

    Raises:
        UserError: No such model, no weights for it, or a network that has no dense output or takes no image files.
    """
    device = accelerator.current_accelerator(check_available=True) or "cpu"
    model = load_network(network) if isinstance(network, str) else network
    if not hasattr(model, "feature_info"):
        raise UserError(
            f"{type(model).__name__} has no feature maps, so it segments nothing; choose a network such as unet_lasilu."
        )
    check_channels(model)
    config = resolve_model_data_config(model)
    levels: Any = model.feature_info
    maps: Any = getattr(model, "num_classes", 1)
    names = label_names(model)
    names = names if len(names) == maps else tuple(map(str, range(maps)))
    stride = levels[-1]["reduction"]
    brightness = recorded_brightness(model)
    size = recorded_size(model)
    return Segmenter(model.eval().to(device), config["mean"], config["std"], stride, names, brightness, size)


def predict_files(
    model: nn.Module | str,
    sources: Iterable[Path],
    output: Path,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    threshold: float = 0.5,
    pictures: bool = True,
    max_megapixels: float | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> list[str]:
    """Segment images and write ``NAME.mask.png`` (and ``NAME.overlay.png``) for each.

    A mask of one class is 0 and 255; of several, it holds each pixel's class, with a palette of their colours, which
    the legend of the overlay names. What cannot be read is reported and the rest goes on.

    Args:
        model: As `load_segmenter`.
        sources: As `inputs.find_inputs`.
        output: Folder of the masks, made if need be; masks of the same name are replaced.
        tile: Side of the tiles that larger images are cut into; if None, that of the windows that a network with
            LayerAct was trained on, else 512 (see `tiles.tiles_for`).
        overlap: Pixels that neighbouring tiles share and are blended over; if None, as the tiles go.
        threshold: Probability from which a pixel is foreground, for a network with one class.
        pictures: Write overlay pictures too.
        max_megapixels: Largest image allowed, see `images.large_images`.
        progress: Show progress bars, where the output is a terminal.
        report: Called with a line for each image.

    Returns:
        One line for each failure.

    Raises:
        UserError: A source is not there, or no image can be read; the model cannot be loaded or is none of
            segmentation, or the tiles do not fit it.
    """
    check_folder(output)
    inputs, failures = find_inputs(sources)
    segmenter = load_segmenter(model)
    if segmenter.size is not None and (tile, overlap) != (None, None):
        raise UserError(
            f"This network was trained on images resized to {segmenter.size} pixels a side, and sees them so: leave "
            f"out --tile and --overlap."
        )
    usual = of_side(tile) if tile else tiles_for(segmenter.model, segmenter.stride)
    tile, overlap = usual.side, usual.overlap if overlap is None else overlap
    check_tiles(tile, overlap, segmenter.stride)
    seen = f"tiles of {tile}x{tile} pixels, {overlap} shared"
    report(seen if segmenter.size is None else f"images resized to {segmenter.size}x{segmenter.size} pixels")
    written = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, transient=True, disable=not (progress and sys.stdout.isatty()))
    with bar as bars, large_images(max_megapixels):
        images, tiles = bars.add_task("images", total=len(inputs)), bars.add_task("tiles")
        for each, image in _read(inputs, failures, segmenter.brightness):
            if image is not None:
                height, width = image.shape[-2:]
                count = 1 if segmenter.size else count_tiles(height, width, tile, overlap, segmenter.stride)
                bars.reset(tiles, total=count)
                mask = segmenter.classes(image, tile, overlap, threshold, lambda: bars.advance(tiles))
                output.mkdir(parents=True, exist_ok=True)
                _write(image, mask, segmenter.names, output / each.stem, pictures)
                written += 1
                report(f"{each.name}: {output / each.stem}{SUFFIXES[0]}")
            bars.advance(images)
    if not written:
        raise UserError(nothing_to("segment", failures))
    return failures


def classes(probabilities: Tensor, threshold: float) -> Tensor:
    """Class of each pixel, uint8 ``(H, W)`` on the CPU: 0 and 1 for one class by threshold, else the likeliest."""
    chosen = probabilities[0] >= threshold if len(probabilities) == 1 else probabilities.argmax(0)
    return chosen.to("cpu", torch.uint8)


def _read(
    inputs: Iterable[Input], failures: list[str], brightness: Brightness | None
) -> Iterator[tuple[Input, Tensor | None]]:
    """Each input with its image, or with None after adding a line to `failures`."""
    taken: dict[str, Input] = {}
    for each in inputs:
        try:
            if each.stem in taken:
                raise UserError(f"{each.name} would overwrite the mask of {taken[each.stem].name}: rename one of them.")
            image = read_image(each.source, each.name, brightness=brightness)
            taken[each.stem] = each
            yield each, image
        except UserError as error:
            failures.append(str(error))
            yield each, None


def _write(image: Tensor, mask: Tensor, names: Sequence[str], stem: Path, pictures: bool) -> None:
    """Write a mask, and its overlay."""
    save_png(indexed(mask) if len(names) > 1 else mask * 255, Path(f"{stem}{SUFFIXES[0]}"))
    if pictures:
        drawn = overlay(image, mask)
        drawn = with_legend(drawn, names, labels_of(mask)) if len(names) > 1 else drawn
        save_png(drawn, Path(f"{stem}{SUFFIXES[1]}"))
