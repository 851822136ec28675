"""Images a second that the training engine takes on a GPU: CIFAR-size networks, data on the device, CUDA graphs.

Needs what the engine needs (accelerate and the rest), which a bare machine may lack: there this part says so.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import timm
import torch

from .gpu_cases import Found, Sizes, synchronize

__all__ = ["engine"]

WARM_UP, STEPS = 30, 300


def _images_per_second(name: str, graph: bool, sizes: Sizes) -> Found:
    from timm_layeract.data.sources import ImageSplit
    from timm_layeract.training.engine import Trainer
    from timm_layeract.training.recipe import load_recipe
    from timm_layeract.training.tasks.classification import Classification

    warm_up, steps, batch = (WARM_UP, STEPS, 512) if sizes.device == "cuda" else (1, 2, 8)
    images = torch.randint(256, ((warm_up + steps) * batch, 3, 32, 32), dtype=torch.uint8)
    data = ImageSplit(images, torch.randint(10, (len(images),)), tuple("0123456789"))
    recipe = load_recipe("cifar10_fast", batch_size=batch, cuda_graph=graph, data_on_device="true")
    model = timm.create_model(name, num_classes=10)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, recipe, Classification(model, recipe, data), data, data, Path(folder), progress=False)
        for _ in trainer.steps(0, 0, warm_up):
            pass
        synchronize(sizes.device)
        started = time.perf_counter()
        for _ in trainer.steps(0, warm_up, warm_up + steps):
            pass
        synchronize(sizes.device)
    return {"images a second": steps * batch / (time.perf_counter() - started)}


def engine(sizes: Sizes) -> Iterator[tuple[str, Callable[[], Found]]]:
    """Images a second of ResNet-20 at 32 px, augmentation and figures included."""
    for name, graph in product(("resnet20", "resnet20_lasilu"), (False, True)):
        if graph and sizes.device != "cuda":
            continue

        def case(of: Any = (name, graph)) -> Found:
            return _images_per_second(*of, sizes)

        yield f"{name} 512 x 32 px {'graph' if graph else 'eager'}", case
