"""Batch augmentation against windows cut out one by one, and torchvision."""

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2

from timm_layeract.data.augment import SampleRandom, normalize, random_crop_flip, random_erase


@pytest.mark.parametrize(("height", "width", "padding"), [(5, 7, 2), (8, 8, 4), (3, 4, 0)])
def test_every_output_is_a_window_of_the_padded_image(height: int, width: int, padding: int) -> None:
    images = torch.randint(1, 256, (300, 3, height, width), dtype=torch.uint8)
    cropped = random_crop_flip(images, padding, True, SampleRandom(0, 300))
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
    first, second = (random_crop_flip(images, 2, True, SampleRandom(7, 16)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(random_crop_flip(images, 0, False, SampleRandom(0, 16)), images)


def test_no_flip_keeps_the_direction() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(64, 3, 8, 8)
    out = random_crop_flip(ramp, 0, False, SampleRandom(1, 64))
    assert bool((out.diff(dim=-1) == 1).all())


def test_an_image_meets_the_same_chance_however_its_batch_is_shared() -> None:
    images = torch.randint(0, 256, (21, 3, 9, 7), dtype=torch.uint8)

    def augmented(rows: slice) -> torch.Tensor:
        random = SampleRandom(3, 21, rows)
        cropped = random_crop_flip(images[rows], 2, True, random)
        return random_erase(normalize(cropped, (0.5,) * 3, (0.2,) * 3), 0.5, random)

    whole = augmented(slice(None))
    assert torch.equal(torch.cat([augmented(slice(0, 8)), augmented(slice(8, 9)), augmented(slice(9, 21))]), whole)


def test_erased_rectangles_are_those_of_timm() -> None:
    count, side = 4000, 32
    ones = torch.ones(count, 2, side, side)
    theirs = RandomErasing(0.4, device="cpu")(ones.clone())
    ours = random_erase(ones, 0.4, SampleRandom(0, count))
    assert torch.equal(ones, torch.ones_like(ones))
    measured = []
    for images in (theirs, ours):
        blank = (images == 0).all(1)
        assert torch.equal(blank, (images == 0).any(1))
        area = blank.sum((1, 2)).float()
        hit = area > 0
        rows, columns = blank.any(2).sum(1).float(), blank.any(1).sum(1).float()
        assert torch.equal(rows * columns, area)  # a rectangle
        aspect = (rows[hit] / columns[hit]).log()
        centre = (blank * torch.arange(side)).sum((1, 2))[hit] / area[hit]
        measured.append([hit.float().mean(), area[hit].mean() / side**2, area[hit].std() / side**2, aspect.mean(),
                         aspect.std(), centre.mean() / side, centre.std() / side])  # fmt: skip
    np.testing.assert_allclose(measured[0], measured[1], atol=0.035)
    assert random_erase(ones, 0.0, SampleRandom(0, count)) is ones


def test_normalize_is_torchvisions() -> None:
    images = torch.randint(0, 256, (4, 3, 24, 30), dtype=torch.uint8)
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    torch.testing.assert_close(normalize(images, mean, std), v2.Compose(steps)(images))


def test_a_network_of_one_channel_sees_luminance() -> None:
    images = torch.randint(0, 256, (3, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    gray = normalize(images, (0.5,), (0.25,))
    red, green, blue = images.double().unbind(1)
    expected = ((0.299 * red + 0.587 * green + 0.114 * blue) / 255 - 0.5) / 0.25
    torch.testing.assert_close(gray[:, 0].double(), expected, rtol=0, atol=2e-3)  # the weights are rounded to 4 digits
    assert normalize(images[:, :1], (0.5,), (0.25,)).shape == (3, 1, 4, 5)
