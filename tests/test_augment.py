"""Batch augmentation against windows cut out one by one, and torchvision."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from timm_layeract.data.augment import normalize, random_crop_flip


@pytest.mark.parametrize(("height", "width", "padding"), [(5, 7, 2), (8, 8, 4), (3, 4, 0)])
def test_every_output_is_a_window_of_the_padded_image(height: int, width: int, padding: int) -> None:
    images = torch.randint(1, 256, (300, 3, height, width), dtype=torch.uint8)
    cropped = random_crop_flip(images, padding, True, torch.Generator().manual_seed(0))
    seen = set()
    for image, output in zip(images.numpy(), cropped.numpy(), strict=True):
        padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding)])
        windows = {
            (top, left, mirrored): padded[:, top : top + height, left : left + width][:, :, :: -1 if mirrored else 1]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for mirrored in (False, True)
        }
        matches = [key for key, window in windows.items() if np.array_equal(window, output)]
        assert matches
        seen.add(matches[0])
    assert {key[2] for key in seen} == {False, True}
    for axis in (0, 1):
        assert {key[axis] for key in seen} == set(range(2 * padding + 1))


def test_same_generator_same_result_and_nothing_to_do_is_the_identity() -> None:
    images = torch.randint(0, 256, (16, 3, 6, 6), dtype=torch.uint8)
    first, second = (random_crop_flip(images, 2, True, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(random_crop_flip(images, 0, False, torch.Generator()), images)


def test_no_flip_keeps_the_direction() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(64, 3, 8, 8)
    out = random_crop_flip(ramp, 0, False, torch.Generator().manual_seed(1))
    assert bool((out.diff(dim=-1) == 1).all())


def test_normalize_is_torchvisions() -> None:
    images = torch.randint(0, 256, (4, 3, 24, 30), dtype=torch.uint8)
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    torch.testing.assert_close(normalize(images, mean, std), v2.Compose(steps)(images))
