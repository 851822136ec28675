"""Oracle of a segmentation network's figures: pixels counted with numpy over whole images, by the way users predict."""

from timm_layeract.data.masks import MaskSplit
from timm_layeract.data.tiles import Tiles
from timm_layeract.prediction.files import Segmenter


def mask_overlap(segmenter: Segmenter, split: MaskSplit, tiles: Tiles) -> tuple[int, int]:
    """Pixels that prediction and truth both call foreground, and that either does, over all images of a split."""
    both = either = 0
    for image, mask in zip(split.images, split.masks, strict=True):
        found = segmenter.probabilities(image, *tiles)[0].cpu().numpy() >= 0.5
        both += int((found & (mask.numpy() == 1)).sum())
        either += int((found | (mask.numpy() == 1)).sum())
    return both, either
