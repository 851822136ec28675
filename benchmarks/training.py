"""Images a second of the training engine, of a loop that does nothing but train, and of per-image transforms.

Each contender trains the same ResNet-20 at 32 px; its time is that of `STEPS` optimizer steps.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

import timm_layeract  # noqa: F401  (registers the models)
from timm_layeract.data.augment import normalize
from timm_layeract.data.sources import ImageSplit
from timm_layeract.training.engine import Trainer
from timm_layeract.training.optim import create_optimizer
from timm_layeract.training.recipe import load_recipe
from timm_layeract.training.tasks.classification import Classification

from .measure import Row, interleave, rows

__all__ = ["BATCH", "LEVEL", "MODEL", "STEPS", "training"]

LEVEL = "training engine"
MODEL, BATCH, STEPS = "resnet20_lasilu", 128, 5
MEAN = STD = (0.5, 0.5, 0.5)


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images as PIL pictures through torchvision's transforms, one by one, as published CIFAR code has it."""

    def __init__(self, split: ImageSplit) -> None:
        self.pictures, self.labels = [to_pil_image(image) for image in split.images], split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def training(repetitions: int, progress: Progress) -> Iterator[Row]:
    """Rows of the level ``training``."""
    images = torch.randint(0, 256, (STEPS * BATCH, 3, 32, 32), dtype=torch.uint8)
    split = ImageSplit(images, torch.randint(0, 10, (len(images),)), tuple("0123456789"))
    for precision in ("no", "bf16"):
        recipe = load_recipe(
            "cifar10_resnet", steps=10_000, batch_size=BATCH, mixed_precision=precision, channels_last=True
        )
        model = timm.create_model(MODEL)
        task = Classification(model, recipe, split)
        with tempfile.TemporaryDirectory() as output:
            trainer = Trainer(model, recipe, task, split, split, Path(output), progress=False)

            def engine(trainer: Trainer = trainer) -> None:
                for _ in trainer.steps(0, 0, STEPS):
                    pass

            ready = normalize(split.images, MEAN, STD).contiguous(memory_format=torch.channels_last)
            batches = list(zip(ready.split(BATCH), split.labels.split(BATCH), strict=True))
            cases = {
                "engine": engine,
                "bare loop": _bare_loop(precision, batches),
                "per-image transforms": _bare_loop(precision, DataLoader(PerImage(split), BATCH, shuffle=True)),
                "per-image transforms, 2 workers": _bare_loop(
                    precision, DataLoader(PerImage(split), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
                ),
            }
            times = interleave(cases, repetitions, progress)
        dtype = "float32" if precision == "no" else "bfloat16"
        of = dict(level=LEVEL, shape=f"{BATCH}x3x32x32", dtype=dtype, layout="channels_last")
        yield from rows(times, **of, what=f"{STEPS} steps")


def _bare_loop(precision: str, batches: Iterable[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """Forward, backward and optimizer step, and nothing else."""
    recipe = load_recipe("cifar10_resnet")
    model = timm.create_model(MODEL).to(memory_format=torch.channels_last).train()
    optimizer = create_optimizer(model, recipe)

    def loop() -> None:
        for images, labels in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return loop
