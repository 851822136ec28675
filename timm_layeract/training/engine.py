"""The training loop: a recipe, a timm model and a data set in; the best weights, a log and a result out.

Imports accelerate, timm, `data`, `checkpoints` and its siblings. Runs as it is under `accelerate launch` and torchrun;
only the main process writes.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from timm.data.random_erasing import RandomErasing
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..checkpoints import save_weights
from ..data.augment import normalize, random_crop_flip
from ..data.sources import ImageSplit
from ..errors import UserError
from .optim import create_optimizer, create_schedule
from .progress import EpochProgress
from .recipe import Recipe

__all__ = ["EpochRecord", "Trainer", "process_state"]


def process_state() -> PartialState:
    """This process among those of the run; without an accelerator, several of them meet on the CPU (gloo)."""
    return PartialState(cpu=not torch.accelerator.is_available())


@dataclass
class EpochRecord:
    """What is logged of an epoch; losses are means over images, accuracies percentages, times seconds."""

    epoch: int
    lr: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    images_per_second: float
    seconds: float


class Trainer:
    """Trains one network.

    Args:
        model: timm model; its `pretrained_cfg` gives input size, mean and deviation.
        recipe: What to do.
        train: Training images.
        val: Held-out images that choose the best epoch.
        output: Folder of the run.
        progress: Show a progress bar.

    Raises:
        UserError: Labels outside the head's classes.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, train: ImageSplit, val: ImageSplit, output: Path, progress: bool = True
    ) -> None:
        self.recipe = recipe
        self.output = output
        AcceleratorState._reset_state()  # a second run in one process may ask for another precision
        if recipe.mixed_precision == "fp16" and process_state().device.type == "cpu":
            raise UserError("mixed_precision 'fp16' needs a GPU; give 'bf16' or 'no'.")
        self.accelerator = Accelerator(
            cpu=process_state().device.type == "cpu",
            mixed_precision=recipe.mixed_precision,
            # The seedable sampler gives every epoch its own order, the same after a resume.
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
        )
        self.progress = progress and self.accelerator.is_main_process
        _check_classes(model, train)
        _check_classes(model, val)
        data_config = resolve_model_data_config(model)
        self.mean, self.std = data_config["mean"], data_config["std"]
        self.erase = RandomErasing(recipe.random_erasing, device=self.accelerator.device)
        # One process takes its share of the batch that makes one optimizer step.
        share = max(1, recipe.batch_size // self.accelerator.num_processes)
        self.train_loader = self._loader(train, share, shuffle=True)
        self.val_loader = self._loader(val, 4 * share)
        if recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
        optimizer = create_optimizer(model, recipe)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.schedule = create_schedule(optimizer, recipe, recipe.epochs * len(self.train_loader))
        self.ema = ModelEmaV3(self.unwrapped, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self.history: list[EpochRecord] = []
        self.accelerator.register_for_checkpointing(self.schedule, self, *([self.ema] if self.ema else []))

    @property
    def unwrapped(self) -> nn.Module:
        """The network without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the averaged one where there is one."""
        return self.ema.module if self.ema else self.unwrapped

    @property
    def best(self) -> EpochRecord:
        """The epoch with the highest accuracy on held-out images (the first of equals)."""
        return max(self.history, key=lambda record: record.val_top1)

    @property
    def checkpoint(self) -> Path:
        """Folder of the newest checkpoint."""
        return self.output / "checkpoint"

    @property
    def best_weights(self) -> Path:
        """State dict of the best epoch so far."""
        return self.output / "best.safetensors"

    def _loader(self, split: ImageSplit, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        # Batches are cut from tensors in memory by one indexing operation: workers would only add copies.
        loader = DataLoader(split, batch_size, shuffle=shuffle, drop_last=shuffle, collate_fn=lambda batch: batch)
        if shuffle and len(loader) == 0:
            raise UserError(
                f"{len(split)} training images do not fill one batch of {batch_size}; give a smaller batch_size."
            )
        return self.accelerator.prepare(loader)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside weights, optimizer and schedule."""
        return {"history": [vars(record) for record in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's history."""
        self.history = [EpochRecord(**record) for record in state["history"]]

    def resume(self) -> None:
        """Continue after the last whole epoch, if there is a checkpoint."""
        newest = self.checkpoint if self.checkpoint.is_dir() else self.output / "checkpoint.old"
        if newest.is_dir():
            self.accelerator.load_state(str(newest))

    def fit(self) -> Iterator[EpochRecord]:
        """Train the epochs that are left, yielding each one's record after its checkpoint is on disk."""
        for epoch in range(len(self.history), self.recipe.epochs):
            record = self._epoch(epoch)
            self.history.append(record)
            self._save(improved=self.best is record)
            yield record

    def load_best(self) -> None:
        """Put the best epoch's weights into the evaluated network."""
        self.evaluated.load_state_dict(load_file(self.best_weights))

    def evaluate(self, split: ImageSplit) -> dict[str, float]:
        """Mean loss and top-1 accuracy (percent) of the evaluated network on a split."""
        loss, top1 = self._evaluate(self._loader(split, self.recipe.batch_size))
        return {"loss": loss, "top1": top1, "images": len(split)}

    def _epoch(self, epoch: int) -> EpochRecord:
        """Train one epoch and validate."""
        recipe, started = self.recipe, time.perf_counter()
        self.model.train()
        self.train_loader.set_epoch(epoch)  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(_stream(recipe.seed, epoch, self.accelerator.process_index))
        totals = torch.zeros(3, device=self.accelerator.device)
        steps = len(self.train_loader)
        with EpochProgress(f"epoch {epoch + 1}/{recipe.epochs}", steps, enabled=self.progress) as bar:
            for index, (images, labels) in enumerate(self.train_loader):
                images = random_crop_flip(images, recipe.padding, recipe.flip, generator)
                loss, correct = self._step(self.erase(self._input(images)), labels)
                totals += torch.stack([loss * len(labels), correct, totals.new_tensor(len(labels))])
                if not bool(torch.isfinite(totals[0])):
                    raise UserError(
                        f"The loss is not finite in epoch {epoch + 1}, step {index + 1} "
                        f"(lr {self.schedule.get_last_lr()[0]:.3g}): give a smaller --lr, or mixed_precision 'no'."
                    )
                bar.advance(totals, self.accelerator.num_processes)
        trained = time.perf_counter() - started
        loss_sum, correct, count = self.accelerator.reduce(totals, "sum").tolist()
        val_loss, val_top1 = self._evaluate(self.val_loader)
        return EpochRecord(
            epoch=epoch,
            lr=float(self.schedule.get_last_lr()[0]),
            train_loss=loss_sum / count,
            train_top1=100 * correct / count,
            val_loss=val_loss,
            val_top1=val_top1,
            images_per_second=count / trained,
            seconds=time.perf_counter() - started,
        )

    def _input(self, images: Tensor) -> Tensor:
        batch = normalize(images, self.mean, self.std)
        return batch.contiguous(memory_format=torch.channels_last) if self.recipe.channels_last else batch

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step; returns the batch's mean loss and number of correct answers."""
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        if self.ema:
            self.ema.update(self.unwrapped)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    @torch.no_grad()
    def _evaluate(self, loader: DataLoader[Any]) -> tuple[float, float]:
        """Mean loss and accuracy (percent), every image counted once whatever the number of processes."""
        network = self.evaluated
        network.eval()
        losses, hits = [], []
        with self.accelerator.autocast():
            for images, labels in loader:
                logits = network(self._input(images)).float()
                loss = F.cross_entropy(logits, labels, reduction="none")
                loss, hit = self.accelerator.gather_for_metrics((loss, logits.argmax(1) == labels))
                losses.append(loss)
                hits.append(hit)
        return float(torch.cat(losses).double().mean()), 100 * float(torch.cat(hits).double().mean())

    def _save(self, improved: bool) -> None:
        """Write the checkpoint beside the old one, then put it in its place; keep the best weights."""
        fresh = self.output / "checkpoint.partial"
        self.accelerator.save_state(str(fresh))
        if self.accelerator.is_main_process:
            if improved:
                save_weights(self.evaluated, self.best_weights)
            old = self.output / "checkpoint.old"
            shutil.rmtree(old, ignore_errors=True)
            if self.checkpoint.exists():
                self.checkpoint.rename(old)
            fresh.rename(self.checkpoint)
            shutil.rmtree(old, ignore_errors=True)
            with (self.output / "log.jsonl").open("w") as log:
                log.writelines(json.dumps(vars(record)) + "\n" for record in self.history)
        self.accelerator.wait_for_everyone()


def _stream(seed: int, epoch: int, process: int) -> int:
    """A seed of its own for each epoch and process, so that a resumed epoch draws what it would have drawn."""
    return (seed * 1_000_003 + epoch) * 1_009 + process


def _check_classes(model: nn.Module, split: ImageSplit) -> None:
    """Refuse labels that the head has no output for."""
    highest = int(split.labels.max())
    if highest >= int(model.num_classes):  # type: ignore[arg-type]
        raise UserError(
            f"The data has labels up to {highest} ({len(split.classes)} classes), the model's head has "
            f"{model.num_classes}; leave --num-classes out, or give at least {len(split.classes)}."
        )
