"""The training loop: a recipe, a task, a network and data in; the best weights, a log and checkpoints out.

Runs as it is under `accelerate launch` and torchrun; only the main process writes. What a step computes depends on
seed, epoch and step alone, so that a run that died and was resumed ends with the bits of one that did not.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from .._utils.writing import write_whole
from ..checkpoints.save import save_weights
from ..data.augment import SampleRandom
from ..data.splits import Split
from ..errors import UserError
from ..layers import synchronize_statistics
from .batches import Batches, Part, enough_for_batch_norm, stream
from .checkpointing import Stateful, find_checkpoint, load_checkpoint, write_checkpoint
from .cuda_graph import StepGraphs, check_capturable
from .display import EpochProgress
from .feed import Feed
from .folder import BEST, CHECKPOINTS
from .history import EpochRecord, EpochTime, RunState
from .measurements import Measurements, sums_of
from .optim import create_optimizer, create_schedule
from .options import Execution
from .processes import create_accelerator
from .recipe import Recipe
from .tasks import Task
from .validation import Validation

__all__ = ["Trainer"]


class Trainer:
    """Trains one network.

    Args:
        model: timm model.
        recipe: What to do.
        task: What it is done for.
        train: Training data.
        val: Held-out data that chooses the best epoch.
        output: Folder of the run.
        checkpoint_steps: Optimizer steps between checkpoints within an epoch; there is one at each epoch's end too.
        skip_unreadable: Take the next sample where one cannot be read.
        workers: Processes that read data; 0 reads in this one, which is faster for data in memory.
        trackers: Names of accelerate's trackers.
        progress: Show a progress bar.
        report: Called with lines for a person to read.

    Raises:
        UserError: Fewer training images than a batch; as `create_accelerator`.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        task: Task,
        train: Split,
        val: Split,
        output: Path,
        *,
        checkpoint_steps: int = Execution.checkpoint_steps,
        workers: int = 0,
        skip_unreadable: bool = False,
        trackers: tuple[str, ...] = (),
        progress: bool = True,
        report: Callable[[str], None] = print,
    ) -> None:
        self.recipe, self.task, self.output = recipe, task, output
        self.train_data, self.val_data = train, val
        self.checkpoint_steps, self.report = checkpoint_steps, report
        self.accelerator = create_accelerator(recipe.mixed_precision, output, trackers)
        self.progress = progress and self.accelerator.is_main_process
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        images = len(train)
        self.batches = Batches(
            images, recipe.batch_size, recipe.seed, recipe.accumulate, process, processes, recipe.aug_repeats
        )
        if recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
        optimizer = create_optimizer(model, recipe)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if recipe.sync_batch_norm:
            # Not before: DistributedDataParallel refuses it on the CPU, where only the fused networks can do it.
            nn.SyncBatchNorm.convert_sync_batchnorm(synchronize_statistics(self.unwrapped))
        self.total_steps = recipe.steps or (recipe.epochs or 0) * self.batches.steps
        # Not prepared: accelerate would step it once for every process.
        self.schedule = create_schedule(optimizer, recipe, max(1, self.total_steps))
        self.ema = ModelEmaV3(self.unwrapped, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self.feed = Feed(recipe, train, val, self.accelerator.device, workers, report if skip_unreadable else None)
        self.validation = Validation(self.accelerator, recipe, task, self.feed)
        self.step = 0  # optimizer steps done
        self.history: list[EpochRecord] = []
        self.times: list[EpochTime] = []
        self.seconds = 0.0  # that this epoch has taken, in processes before this one
        self.measured = Measurements(self.accelerator.device)  # of the epoch so far, in this process
        self.graphs: StepGraphs | None = None
        if recipe.cuda_graph:
            check_capturable(recipe, self.accelerator.device, processes)
            self.graphs = StepGraphs(self.unwrapped, self._passes)

    @property
    def unwrapped(self) -> nn.Module:
        """The network without what accelerate wraps around it."""
        network: nn.Module = self.accelerator.unwrap_model(self.model)
        return network

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the averaged one if there is one."""
        return self.ema.module if self.ema else self.unwrapped

    @property
    def epochs(self) -> int:
        """Epochs of the run; the last one is shorter where the recipe counts steps."""
        return -(-self.total_steps // self.batches.steps)

    @property
    def best(self) -> EpochRecord:
        """The epoch with the highest monitored figure on held-out data (the first of equals)."""
        return max(self.history, key=lambda record: record.val[self.task.monitor])

    @property
    def best_weights(self) -> Path:
        """State dict of the best epoch so far."""
        return self.output / BEST

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.output / CHECKPOINTS

    @property
    def _parts(self) -> dict[str, Stateful]:
        """Everything that has a state."""
        parts = {"model": self.unwrapped, "optimizer": self.optimizer, "schedule": self.schedule, "progress": self}
        more = {"averaged": self.ema, "scaler": self.accelerator.scaler}
        return {**parts, **{name: part for name, part in more.items() if part is not None}}

    def state_dict(self) -> RunState:
        """What a checkpoint keeps of the run itself."""
        # A row for each process, as sums that are added in another order have other last digits.
        sums = self.measured.sums
        sums = None if sums is None else self.validation.gather(sums)
        return {
            "history": [record.to_dict() for record in self.history],
            "times": [asdict(record) for record in self.times],
            "seconds": self.seconds,
            "step": self.step,
            "sums": sums,
        }

    def load_state_dict(self, state: RunState) -> None:
        """Continue from a checkpoint."""
        self.history = [EpochRecord(**record) for record in state["history"]]
        if any(self.task.monitor not in record.val for record in self.history):
            raise ValueError(f"its epochs have no {self.task.monitor}")
        self.times = [EpochTime(**record) for record in state["times"]]
        self.step, self.seconds = state["step"], state["seconds"]
        self.measured.sums = None if state["sums"] is None else state["sums"][self.accelerator.process_index]

    def resume(self) -> None:
        """Resume from the newest undamaged checkpoint, if there is one."""
        checkpoint = find_checkpoint(self.checkpoints, self.report)
        if checkpoint is not None:
            load_checkpoint(self.accelerator, checkpoint, self._parts)

    def fit(self) -> Iterator[EpochRecord]:
        """Train the remaining epochs, yielding the record of each once its checkpoint is on disk."""
        while len(self.history) < self.epochs:
            record = self._epoch(len(self.history))
            self.history.append(record)
            self.measured.sums, self.seconds = None, 0.0
            if self.best is record and self.accelerator.is_main_process:
                save_weights(self.evaluated, self.best_weights)
            self._checkpoint()
            if self.accelerator.is_main_process:
                lines = [json.dumps(each.to_dict()) + "\n" for each in self.history]
                write_whole(self.output / "log.jsonl", "".join(lines))
            yield record

    def first_inputs(self, steps: int) -> Iterator[Tensor]:
        """Inputs of the first training steps (of one epoch at most), the same in every process."""
        batches = Batches(
            len(self.train_data), self.recipe.batch_size, self.recipe.seed, repeats=self.recipe.aug_repeats
        )
        parts = batches.parts(0, 0, min(steps, batches.steps))
        for part, batch in zip(parts, self.feed.batches(self.train_data, [p.indices for p in parts]), strict=True):
            random = SampleRandom(stream(self.recipe.seed, 0, part.step), self.recipe.batch_size, part.rows)
            yield self.feed.lay_out(self.task.inputs(batch, random)[0])

    def time_step(self, steps: int, epoch: int = 0) -> float:
        """Median duration of a training step in seconds, after two warm-up steps; the network keeps their updates."""
        taken, started = [], time.perf_counter()
        for _ in self.steps(epoch, 0, min(steps + 2, self.batches.steps)):
            taken.append(time.perf_counter() - started)
            started = time.perf_counter()
        return statistics.median(taken[2:] or taken)

    def load_best(self) -> None:
        """Put the best epoch's weights into the evaluated network."""
        try:
            self.evaluated.load_state_dict(load_file(self.best_weights))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.best_weights} does not hold the weights of this run's best epoch ({reason}); "
                f"give another --output to start over."
            ) from error

    def evaluate(self, data: Split, network: nn.Module | None = None) -> dict[str, float]:
        """The task's figures for the evaluated network, or another one, on a data set; every sample counts once."""
        return self.validation.evaluate(network or self.evaluated, data)

    def _checkpoint(self) -> None:
        self.measured.read()  # before a network that has diverged is kept
        write_checkpoint(self.accelerator, self.checkpoints, self.step, self._parts)

    def _epoch(self, epoch: int) -> EpochRecord:
        """Train what is left of an epoch, and validate."""
        started = time.perf_counter() - self.seconds
        start = epoch * self.batches.steps
        first, end = self.step - start, min(self.batches.steps, self.total_steps - start)
        with EpochProgress(f"epoch {epoch + 1}/{self.epochs}", end, first, self.progress, self.task.samples) as bar:
            for _ in self.steps(epoch, first, end):
                bar.advance(
                    lambda: self.validation.figures(self.measured.sums, everywhere=False), self.recipe.batch_size
                )
                if self.step % self.checkpoint_steps == 0 and self.step < start + end:
                    self.seconds = time.perf_counter() - started
                    self._checkpoint()
        self.measured.read()  # a GPU may be behind
        speed = end * self.recipe.batch_size / (time.perf_counter() - started)
        lr = float(self.schedule.get_last_lr()[0])
        train, val = self.validation.figures(self.measured.sums), self.evaluate(self.val_data)
        part = max(len(part.indices) for part in self.batches.parts(0, 0, 1))
        dead = self.validation.dead_units(self.evaluated, self.val_data, part)
        record = EpochRecord(epoch, lr, train, val, dead)
        self.times.append(EpochTime(time.perf_counter() - started, speed))
        return record

    def steps(self, epoch: int, first: int, end: int) -> Iterator[None]:
        """Train the steps [first, end) of an epoch, pausing after each."""
        self.model.train()
        parts = self.batches.parts(epoch, first, end)
        side = self.recipe.training_side(epoch / max(1, self.epochs))
        for part, batch in zip(parts, self.feed.batches(self.train_data, [p.indices for p in parts]), strict=True):
            self._part(epoch, part, batch, side)
            if part.last:
                self._optimizer_step()
                yield

    def _part(self, epoch: int, part: Part, batch: tuple[Any, ...], side: int | None) -> None:
        """Add the gradients of one part of a step, and its measurements."""
        seed = stream(self.recipe.seed, epoch, part.step)
        # Whatever the network draws (dropout, stochastic depth), it draws again after a resume.
        torch.manual_seed(stream(seed, part.rows.start))
        random = SampleRandom(seed, self.recipe.batch_size, part.rows)
        inputs, targets = self.task.inputs(batch, random, side)
        # Processes exchange gradients once a step, in its last part.
        with nullcontext() if part.last else self.accelerator.no_sync(self.model):
            sums, loss = (self.graphs or self._passes)(self.feed.lay_out(inputs), targets)
        self.measured.add(sums, loss, epoch, part.step, float(self.schedule.get_last_lr()[0]))

    def _passes(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Forward and backward pass; returns the sums of the task's measurements, and the loss."""
        with enough_for_batch_norm():
            outputs = self.model(inputs)
        loss = self.task.loss(outputs, targets)
        # Means over parts of unequal size weigh by their share; gradients are averaged over processes.
        share = len(inputs) / self.recipe.batch_size * self.accelerator.num_processes
        self.accelerator.backward(loss * share)
        return sums_of(self.task.measure(outputs.detach(), targets)), loss.detach()

    def _optimizer_step(self) -> None:
        self.optimizer.step()
        if not self.graphs:  # which write gradients anew, and where they were
            self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        self.step += 1
        if self.ema:
            self.ema.update(self.unwrapped, self.step)
