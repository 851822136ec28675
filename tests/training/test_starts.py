"""A run that fails before its first checkpoint leaves nothing that the next start stumbles over."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from filelock import FileLock
from PIL import Image

from tests.full_disk import room
from tests.training.test_resume import doomed
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError, WriteError
from timm_layeract.training import engine, run
from timm_layeract.training.engine import Trainer
from timm_layeract.training.feed import Feed
from timm_layeract.training.folder import FolderInUseError
from timm_layeract.training.measurements import DivergedError
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe
from timm_layeract.training.runs import list_runs
from timm_layeract.training.sweep import plan, sweep

RECIPE = Recipe(name="tiny", epochs=1, batch_size=20, lr=0.05, padding=1, image_size=(8, 8), schedule="cosine")


def start(digits: ImageSplit, output: Path, recipe: Recipe = RECIPE, **options: Any) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet20_lasilu", num_classes=10)
    training, test = digits.take(torch.arange(80)), digits.take(torch.arange(80, 100))
    execution = Execution(report=lambda _: None, progress=False, **options)
    run.train_on(model, recipe, training, test, output, data_name="digits", execution=execution)


def diverge(patch: pytest.MonkeyPatch) -> type[BaseException]:
    patch.setattr(Trainer, "_passes", lambda *_: (torch.ones(3), torch.tensor(float("nan"))))
    return DivergedError


def meet_a_bad_image(patch: pytest.MonkeyPatch) -> type[BaseException]:
    patch.setattr(Feed, "batches", lambda *_: _raise(UserError("image 3 is damaged")))
    return UserError


def be_stopped(patch: pytest.MonkeyPatch) -> type[BaseException]:
    patch.setattr(Trainer, "_optimizer_step", lambda _: _raise(KeyboardInterrupt()))
    return KeyboardInterrupt


def lose_the_disk(patch: pytest.MonkeyPatch) -> type[BaseException]:
    patch.setattr(engine, "write_checkpoint", lambda *_: _raise(WriteError(28, "No space left on device", "x")))
    return WriteError  # after best.safetensors


def fail_a_tracker(patch: pytest.MonkeyPatch) -> type[BaseException]:
    def fit(trainer: Trainer) -> None:
        (trainer.output / "timm_layeract").mkdir()
        (trainer.output / "timm_layeract" / "events").write_text("1")
        raise RuntimeError("no connection")

    patch.setattr(run, "fit", fit)
    return RuntimeError


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("fault", [diverge, meet_a_bad_image, be_stopped, lose_the_disk, fail_a_tracker])
@pytest.mark.parametrize("place", ["new", "empty"])
def test_a_start_that_fails_leaves_nothing(
    fault: Callable[[pytest.MonkeyPatch], type[BaseException]], place: str, tmp_path: Path, digits: ImageSplit
) -> None:
    output = tmp_path / "runs" / "first"
    if place == "empty":
        output.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        expected = fault(patch)
        with pytest.raises(expected):
            start(digits, output)
    assert [path.name for path in tmp_path.rglob("*")] == (["runs", "first"] if place == "empty" else [])
    start(digits, output, RECIPE.replace(lr=0.01))  # another run, without --resume


def test_a_failed_resumption_keeps_the_run(tmp_path: Path, digits: ImageSplit) -> None:
    start(digits, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "load_best", lambda _: _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            start(digits, tmp_path / "run", resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("owner", "name"), [(Trainer, "_optimizer_step"), (os, "fsync")])
def test_a_start_that_was_killed_is_passed_over(owner: object, name: str, tmp_path: Path, digits: ImageSplit) -> None:
    process = multiprocessing.get_context("fork").Process(target=doomed, args=(digits, tmp_path, owner, name, 1, {}))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.iterdir())
    start(digits, tmp_path)
    assert not list(tmp_path.rglob(".*.partial"))


@pytest.mark.parametrize("name", ["timm_layeract", "best.safetensors", "checkpoints", "notes.txt"])
def test_what_is_somebodys_own_is_refused(name: str, tmp_path: Path, digits: ImageSplit) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="is not empty"):
        start(digits, tmp_path)
    assert (tmp_path / name).is_dir()


def test_a_start_beside_another_one_is_refused(tmp_path: Path, digits: ImageSplit) -> None:
    lock = FileLock(tmp_path / ".lock")
    with lock, pytest.raises(FolderInUseError):
        start(digits, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    start(digits, tmp_path)


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path, digits: ImageSplit) -> None:
    start(digits, tmp_path)
    (tmp_path / "model" / ".abcd.partial").mkdir()
    (tmp_path / "model" / ".abcd.partial" / "config.json").write_text("{")
    (tmp_path / ".log.jsonl.0123.partial").write_text("{")
    start(digits, tmp_path, resume=True)
    assert not list(tmp_path.rglob(".*.partial"))


@pytest.mark.parametrize("resume", [True, False])
def test_a_record_that_cannot_be_read_is_named(resume: bool, tmp_path: Path, digits: ImageSplit) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json"):
        start(digits, tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_that_may_only_be_read(tmp_path: Path, digits: ImageSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    start(digits, tmp_path)
    monkeypatch.setattr(FileLock, "acquire", lambda *_, **__: _raise(OSError(30, "Read-only file system")))
    with pytest.raises(WriteError, match=r"/\.lock cannot be written: Read-only file system\.$"):
        start(digits, tmp_path, resume=True)


def test_no_room_for_the_first_file(tmp_path: Path, digits: ImageSplit) -> None:
    with room(10), pytest.raises(WriteError, match=r"run\.json cannot be written"):
        start(digits, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_sweep_may_be_given_again_after_a_run_has_diverged(
    tmp_path: Path, digits: ImageSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_split, test = digits.take(torch.arange(80)), digits.take(torch.arange(80, 100))
    monkeypatch.setattr(run, "open_splits", lambda *_: {"train": train_split, "test": test})
    quiet = Execution(progress=False, report=lambda _: None)

    def runs(recipe: Recipe) -> None:
        sweep(plan(["resnet20_lasilu"], [11], recipe, "digits", tmp_path / "runs"), quiet)

    with pytest.MonkeyPatch.context() as patch:
        diverge(patch)
        with pytest.raises(UserError, match=r"The loss of resnet20_lasilu\.seed11 was not finite"):
            runs(RECIPE)
    assert not list(tmp_path.iterdir())
    runs(RECIPE.replace(lr=0.01))
    assert list_runs(tmp_path / "runs")[0]["state"] == "finished"


def test_runs_are_listed_where_nothing_may_be_written(
    tmp_path: Path, digits: ImageSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(digits, tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one" / "result.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert list_runs(tmp_path / "runs")[0]["state"] == "stopped"
    (tmp_path / "runs" / "one" / ".lock").unlink()
    monkeypatch.undo()
    assert list_runs(tmp_path / "runs")[0]["state"] == "stopped"
    assert sorted(tmp_path.rglob("*")) == [path for path in before if path.name != ".lock"]


def test_a_bad_image_in_the_first_batch_of_a_folder(tmp_path: Path, digits: ImageSplit) -> None:
    for number in range(40):
        path = tmp_path / "data" / digits.classes[int(digits.labels[number])] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[number].permute(1, 2, 0).numpy()).save(path)
    path.write_bytes(path.read_bytes()[:40])
    execution = Execution(progress=False, report=lambda _: None)
    with pytest.raises(UserError, match=path.name):
        run.train("resnet20_lasilu", RECIPE, str(tmp_path / "data"), tmp_path / "runs" / "one", execution=execution)
    assert [each.name for each in tmp_path.iterdir()] == ["data"]
