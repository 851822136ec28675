"""A run that dies, at any moment, resumes and ends with the same bits; what cannot be resumed is refused by name."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.full_disk import room
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError, WriteError
from timm_layeract.training import checkpointing, engine, results, run
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe
from timm_layeract.training.tasks.classification import Classification

# Everything that has a state: averaged weights, AMP, parts of unequal size, dropout, schedule, random images.
RECIPE = Recipe(
    name="tiny", epochs=2, batch_size=20, accumulate=3, lr=0.05, padding=1, random_erasing=0.3, image_size=(8, 8),
    schedule="cosine", ema_decay=0.9, mixed_precision="bf16", channels_last=True, label_smoothing=0.1,
)  # fmt: skip
IMAGES, TEST = 112, 30  # 101 to train on: 5 steps an epoch


def train(digits: ImageSplit, output: Path, recipe: Recipe = RECIPE, drop_rate: float = 0.2, **options: Any) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet20_lasilu", num_classes=10, drop_rate=drop_rate)
    training, test = digits.take(torch.arange(IMAGES)), digits.take(torch.arange(IMAGES, IMAGES + TEST))
    options = {"report": lambda _: None, "progress": False, "checkpoint_steps": 2, **options}
    execution = Execution(resume=True, **options)
    run.train_on(model, recipe, training, test, output, data_name="digits", execution=execution)


def outcome(output: Path) -> dict[str, bytes]:
    """Every byte that a run is judged by."""
    names = ("log.jsonl", "result.json", "model/config.json", "model/model.safetensors", "best.safetensors")
    return {name: (output / name).read_bytes() for name in names}


def die_at_call(owner: object, name: str, call: int) -> None:
    """Let this process be killed on the nth call of a function, before the call does anything."""
    original: Callable[..., object] = getattr(owner, name)
    calls = iter(range(1, call))

    def counted(*arguments: object, **options: object) -> object:
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, counted)


def doomed(digits: ImageSplit, output: Path, owner: object, name: str, call: int, options: dict[str, object]) -> None:
    die_at_call(owner, name, call)
    train(digits, output, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: ImageSplit) -> dict[str, bytes]:
    """What the run that nothing happens to comes to."""
    output = tmp_path_factory.mktemp("whole")
    train(digits, output)
    return outcome(output)


MOMENTS = [
    (engine.Trainer, "_optimizer_step", 1, 0),  # before there is any checkpoint
    (engine.Trainer, "_optimizer_step", 4, 0),  # between checkpoints
    (engine.Trainer, "_part", 26, 1),  # between the parts of a step, with workers
    (os, "fsync", 6, 0),  # halfway through the first checkpoint
    (checkpointing, "_hashes", 3, 0),  # at an epoch's end, after the best weights were written
    (shutil, "rmtree", 1, 0),  # a checkpoint has its name, an old one is still there
    (engine.Trainer, "load_best", 1, 0),  # after training
    (run, "plot_curves", 1, 0),  # after the result
]


@pytest.mark.parametrize(("owner", "name", "call", "workers"), MOMENTS, ids=[f"{m[1]}-{m[2]}" for m in MOMENTS])
def test_a_killed_run_ends_with_the_same_bits(
    owner: object, name: str, call: int, workers: int, tmp_path: Path, digits: ImageSplit, whole: dict[str, bytes]
) -> None:
    arguments = (digits, tmp_path, owner, name, call, {"workers": workers})
    process = multiprocessing.get_context("fork").Process(target=doomed, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "curve.png").exists()
    train(digits, tmp_path)
    assert outcome(tmp_path) == whole
    assert not list(tmp_path.rglob("*partial*"))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


FULL = [
    (checkpointing, "write_state", 8, r"checkpoints/partial-step-000000004/optimizer\.safetensors"),
    (checkpointing, "write_json", 2, r"checkpoints/partial-step-000000004/seal\.json"),
    (engine, "save_weights", 1, r"best\.safetensors"),
    (engine, "write_whole", 1, r"log\.jsonl"),
    (results, "write_json", 1, r"environment\.json"),
    (results, "write_json", 2, r"result\.json"),
    (run, "save_pretrained", 1, r"model/model\.safetensors"),
    (run, "plot_curves", 1, r"curve\.png"),
]


@pytest.mark.parametrize(("owner", "name", "call", "file"), FULL, ids=[f"{m[1]}-{m[2]}" for m in FULL])
def test_a_run_whose_disk_fills_up_goes_on_when_there_is_room(
    owner: object, name: str, call: int, file: str, tmp_path: Path, digits: ImageSplit, whole: dict[str, bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch, room(10**9) as limit:
        original: Callable[..., object] = getattr(owner, name)
        calls = iter(range(1, call))

        def counted(*arguments: object, **options: object) -> object:
            if next(calls, None) is None:
                limit(100)
            return original(*arguments, **options)

        patch.setattr(owner, name, counted)
        with pytest.raises(WriteError, match=rf"^\S+/{file} cannot be written: File too large\.$"):
            train(digits, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    train(digits, tmp_path)
    assert outcome(tmp_path) == whole
    assert (tmp_path / "curve.png").exists()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, digits: ImageSplit, whole: dict[str, bytes]
) -> None:
    train(digits, tmp_path / "run")
    newest, before = sorted((tmp_path / "run" / "checkpoints").iterdir(), reverse=True)
    (tmp_path / "run" / "result.json").unlink()
    files = [path.relative_to(newest) for path in sorted(newest.rglob("*"))]
    assert {"seal.json", "model.safetensors", "optimizer.safetensors"} <= {str(path) for path in files}
    for index, file in enumerate(files):
        damaged = tmp_path / str(index)
        shutil.copytree(tmp_path / "run", damaged)
        path = damaged / "checkpoints" / newest.name / file
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 64
        path.write_bytes([content, content[:-1], b""][index % 3])
        lines: list[str] = []
        train(digits, damaged, report=lines.append)
        # a seal that is still readable speaks of another file
        assert f"{newest.name} is damaged ({'' if file.name == 'seal.json' else file}" in lines[0]
        assert "the one before" in lines[0]
        assert outcome(damaged) == whole
    for checkpoint in (newest, before):
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match=rf"{before.name} is damaged \(model.safetensors is missing\): none is left"):
        train(digits, tmp_path / "run")


def test_what_is_not_the_same_run_is_refused(tmp_path: Path, digits: ImageSplit) -> None:
    train(digits, tmp_path, RECIPE.replace(epochs=1))
    with pytest.raises(UserError, match=r"another run \(recipe.lr: 0.05 there, 0.1 here\)"):
        train(digits, tmp_path, RECIPE.replace(epochs=1, lr=0.1))
    with pytest.raises(UserError, match=r"data\.train_sha256"):
        train(ImageSplit(255 - digits.images, digits.labels, digits.classes), tmp_path, RECIPE.replace(epochs=1))
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(UserError, match="processes: 2 there, 1 here"):
        train(digits, tmp_path, RECIPE.replace(epochs=1))


def test_a_run_in_use_is_left_alone(tmp_path: Path, digits: ImageSplit) -> None:
    arguments = (digits, tmp_path, engine.Trainer, "_optimizer_step", 3, {})
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_stopped, args=arguments)
    process.start()
    try:
        assert os.waitid(os.P_PID, process.pid or 0, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(UserError, match="Another process is running"):
            train(digits, tmp_path)
    finally:
        process.kill()
        process.join()


def _stopped(*arguments: object) -> None:
    """As `doomed`, but the process stops where that one dies."""
    os.kill = partial(_stop, os.kill)  # type: ignore[assignment]
    doomed(*arguments)  # type: ignore[arg-type]


def _stop(kill: Callable[[int, int], None], process: int, _: int) -> None:
    kill(process, signal.SIGSTOP)


def test_parts_of_unequal_size_add_up_to_the_whole_batch(tmp_path: Path, digits: ImageSplit) -> None:
    recipe = Recipe(name="parts", epochs=2, batch_size=20, lr=0.1, padding=1, image_size=(8, 8))
    weights = []
    for parts in (1, 3, 20):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))  # no BatchNorm, whose statistics are a part's own
        model.num_classes, model.pretrained_cfg = 10, {}
        split, changed = digits.take(torch.arange(50)), recipe.replace(accumulate=parts)
        task = Classification(model, changed, split)
        output = tmp_path / str(parts)
        list(engine.Trainer(model, changed, task, split, split, output, progress=False).fit())
        weights.append(model[1].weight.detach().clone())
    assert not torch.equal(weights[0], weights[1])  # sums in another order
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-5, atol=1e-6)
