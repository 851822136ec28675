"""Several models and seeds by one recipe: `layeract sweep`, interrupted, repeated, and from two processes at once."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from timm_layeract.cli import app
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError
from timm_layeract.training import engine, run, sweep
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe
from timm_layeract.training.runs import list_runs
from timm_layeract.training.tasks.classification import Classification

RECIPE = Recipe(name="tiny", epochs=1, batch_size=32, padding=1, flip=False, image_size=(8, 8))
MODELS, SEEDS = ["resnet20", "resnet20_lasilu"], [3, 5]


@pytest.fixture
def data(digits: ImageSplit, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set by name, without a file."""
    splits = {"train": digits.take(torch.arange(100)), "test": digits.take(torch.arange(100, 140))}
    monkeypatch.setattr(run, "open_splits", lambda *_: splits)
    return "digits"


def swept(data: str, folder: Path, recipe: Recipe = RECIPE) -> list[str]:
    """What a sweep reports of the order of its runs."""
    lines: list[str] = []
    execution = Execution(progress=False, report=lines.append)
    sweep.sweep(sweep.plan(MODELS, SEEDS, recipe, data, folder), execution)
    return [line for line in lines if "of 4)" in line or "another process" in line]


def test_each_model_and_seed_is_the_run_that_train_makes(data: str, tmp_path: Path) -> None:
    assert swept(data, tmp_path / "runs") == [
        "resnet20.seed3 (1 of 4)", "resnet20_lasilu.seed3 (2 of 4)",
        "resnet20.seed5 (3 of 4)", "resnet20_lasilu.seed5 (4 of 4)",
    ]  # fmt: skip
    alone = run.train(
        "resnet20_lasilu", RECIPE.replace(seed=5), data, tmp_path / "alone", execution=Execution(progress=False)
    )
    assert json.loads((tmp_path / "runs" / "resnet20_lasilu.seed5" / "result.json").read_text()) == alone
    assert swept(data, tmp_path / "runs") == []  # all there


def test_an_interrupted_run_goes_on(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(trainer: engine.Trainer) -> None:
        if trainer.history:  # the first epoch's checkpoint is there
            raise KeyboardInterrupt
        steps(trainer)

    recipe, steps = RECIPE.replace(epochs=2), engine.Trainer._optimizer_step
    with monkeypatch.context() as patch:
        patch.setattr(engine.Trainer, "_optimizer_step", stop)
        with pytest.raises(KeyboardInterrupt):
            swept(data, tmp_path, recipe)
    assert [each["state"] for each in list_runs(tmp_path)] == ["stopped"]
    assert len(swept(data, tmp_path, recipe)) == 4
    assert {each["state"] for each in list_runs(tmp_path)} == {"finished"}


def test_runs_of_another_recipe_are_not_taken_for_these(data: str, tmp_path: Path) -> None:
    swept(data, tmp_path)
    with pytest.raises(UserError, match=r"resnet20\.seed3 is finished by another recipe; give the sweep another"):
        swept(data, tmp_path, RECIPE.replace(lr=0.2))


def test_what_another_process_trains_is_left_to_it(data: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    taken = sweep.run_folder(tmp_path, "resnet20", 5)

    def hold() -> None:
        from timm_layeract.training.folder import own_folder

        with own_folder(taken, {}, is_main_process=True):
            held.set()
            done.wait()

    process = context.Process(target=hold)
    process.start()
    try:
        assert held.wait(60)
        assert swept(data, tmp_path)[2:4] == ["resnet20.seed5 (3 of 4)", "another process is training it"]
    finally:
        done.set()
        process.join()
    assert not (taken / "result.json").exists()


def test_names_of_smps_networks_make_folders(tmp_path: Path) -> None:
    assert sweep.run_folder(tmp_path, "smp:unet/resnet34", 1) == tmp_path / "smp_unet_resnet34.seed1"


def test_the_command_trains_and_lists(data: str, tmp_path: Path) -> None:
    words = ["sweep", "resnet20", "-d", data, "--seeds", "3,5", "-o", str(tmp_path), "--epochs", "1"]
    settings = ["batch_size=32", "image_size=[8, 8]", "schedule=cosine"]
    words += [word for setting in settings for word in ("--set", setting)]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 0
    assert [line.split()[:5] for line in done.output.splitlines()[-2:]] == [
        ["resnet20.seed3", "resnet20", "cifar10_resnet", "3", "finished"],
        ["resnet20.seed5", "resnet20", "cifar10_resnet", "5", "finished"],
    ]
    with pytest.raises(UserError, match="--seeds takes whole numbers with commas, got '3,five'"):
        CliRunner().invoke(app, [*words[:5], "3,five", *words[6:]], catch_exceptions=False)


QUEUE = """
- model: resnet20
  recipe: {recipe}
  seeds: [3, 5]
- model: resnet20
  recipe: {recipe}
  name: longer
  epochs: 2
  set: {{lr: 0.05, image_size: [8, 8]}}
"""


def queue(tmp_path: Path, text: str = QUEUE) -> Path:
    (tmp_path / "tiny.yaml").write_text(json.dumps({**RECIPE.to_dict(), "seed": 7}))
    (tmp_path / "queue.yaml").write_text(text.format(recipe=tmp_path / "tiny.yaml"))
    return tmp_path / "queue.yaml"


def test_a_queue_is_worked_off_in_its_order(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["sweep", "--queue", str(queue(tmp_path)), "-d", data, "-o", str(tmp_path / "runs"), "--epochs", "1"]
    done = CliRunner().invoke(app, [*words, "--dry-run"], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert [line.split()[:3] for line in done.output.splitlines()] == [
        [name, "tiny", "about"] for name in ("resnet20.seed3", "resnet20.seed5", "longer.seed7")
    ]
    assert not (tmp_path / "runs").exists()

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "summary", die)  # at the very end of the first run
        CliRunner().invoke(app, words)
    assert [each["name"] for each in list_runs(tmp_path / "runs")] == ["resnet20.seed3"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    found = {each["name"]: (each["state"], each["epochs"], each["seed"]) for each in list_runs(tmp_path / "runs")}
    assert found == {
        "longer.seed7": ("finished", 2, 7), "resnet20.seed3": ("finished", 1, 3), "resnet20.seed5": ("finished", 1, 5),
    }  # fmt: skip
    longer = json.loads((tmp_path / "runs" / "longer.seed7" / "result.json").read_text())
    assert (longer["model"], longer["recipe"]["lr"]) == ("resnet20", 0.05)
    done = CliRunner().invoke(app, [*words, "--dry-run"], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert [line.split()[2] for line in done.output.splitlines()] == ["finished"] * 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: resnet20", "must hold a list of runs"),
        ("- modle: resnet20", "run 1: unknown key 'modle'; did you mean 'model'"),
        ("- model: 3", "run 1: model and name must be text"),
        ("- model: resnet20\n- {{model: resnet20, seeds: [-1]}}", r"run 2: seeds must be .*, got \[-1\]"),
        ("- {{model: resnet20, seeds: 3}}", "run 1: seeds must be a list"),
        ("- {{model: resnet20, epochs: two}}", "run 1: --epochs takes a whole number"),
        ("- {{model: resnet20, set: {{rl: 1}}}}", "run 1: .*unknown key 'rl'"),
        ("- {{model: resnet20, epochs: 1, set: {{epochs: 2}}}}", "run 1: epochs is given twice"),
        ("- {{model: resnet20, epochs: 1}}\n- {{model: resnet20, epochs: 2}}", "has two runs in resnet20.seed11"),
        ("- {{model: resnet20_lasilou}}", "Unknown model 'resnet20_lasilou'"),
        ("- {{model: resnet20, epochs: 0}}", "trains for 0 epochs"),
        ("- [", "is not valid YAML"),
    ],
)
def test_a_queue_that_cannot_be_worked_off_is_refused_as_a_whole(tmp_path: Path, text: str, says: str) -> None:
    words = ["sweep", "--queue", str(queue(tmp_path, text)), "-d", "none/none", "-o", str(tmp_path / "runs")]
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_diverges_stops_no_other(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(task: Classification, outputs: Tensor, targets: Tensor) -> Tensor:
        return loss(task, outputs, targets) * (torch.inf if task.recipe.seed == 3 else 1)

    loss = Classification.loss
    monkeypatch.setattr(Classification, "loss", lost)
    runs = sweep.plan(["resnet20"], [3, 5], RECIPE, data, tmp_path)
    with pytest.raises(UserError, match=r"The loss of resnet20\.seed3 was not finite: give a smaller"):
        sweep.sweep(runs, Execution(progress=False, report=lambda _: None))
    assert [(each["seed"], each["state"]) for each in list_runs(tmp_path)] == [(5, "finished")]
