"""Options of runs: declared once, the same for each command, refused by name before anything is read or made."""

import inspect
from pathlib import Path

import pytest

from tests.cli.test_cli import layeract
from timm_layeract.cli import training
from timm_layeract.cli.adaptation import adapt
from timm_layeract.errors import UserError
from timm_layeract.training.options import TRAINING, Adaptation, Execution, RunOptions


def test_every_command_that_trains_has_every_option_of_a_run() -> None:
    train, finetune, sweep, adapted = (
        set(inspect.signature(command).parameters)
        for command in (training.train, training.finetune, training.sweep, adapt)
    )
    assert train == finetune
    assert train - sweep == {"model", "seed", "resume"}
    assert train - adapted == {"task", "num_classes"}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--seed", "-1", "takes a whole number from 0 to 4294967295, got -1"),
        ("--seed", str(2**32), "takes a whole number from 0 to 4294967295, got 4294967296"),
        ("--checkpoint-steps", "0", "takes a whole number from 1, got 0"),
        ("--workers", "-1", "takes a whole number from 0 to 1024, got -1"),
        ("--epochs", "-1", "takes a whole number from 0 to 1000000, got -1"),
        ("--batch-size", "0", "takes a whole number from 1 to 1000000, got 0"),
        ("--lr", "inf", "takes a number above 0 to 1e+30, got inf"),
        ("--lr", "nan", "takes a number above 0 to 1e+30, got nan"),
        ("--recipe", "", "is empty"),
    ],
)
@pytest.mark.parametrize("command", ["train", "finetune", "adapt"])
def test_a_value_out_of_bounds_is_refused_by_its_options_name(
    command: str, option: str, value: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["resnet20"] if command == "adapt" else ["-m", "resnet20"]
    code, _, err = layeract(
        command, *model, "-d", str(tmp_path / "none"), "-o", str(tmp_path / "run"), option, value, capsys=capsys
    )
    assert (code, err) == (2, f"layeract: {option} {says}.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("seed=-3", "seed takes numbers from 0 to 4294967295, got -3"),
        ("lr=.nan", r"lr takes numbers above 0 to 1e\+30, got nan"),
        ("epochs=.inf", "epochs must be a whole number, got inf"),
        ("image_size=[0, 8]", r"image_size takes numbers from 1 to 65536, got \(0, 8\)"),
        ("padding=-1", "padding takes numbers from 0"),
        ("milestones=[0.5, 2]", "milestones takes numbers from 0 below 1"),
        ("name=[1]", "name must be text"),
        ("lr={a: 1, a: 2}", "a stands there twice"),
        ("lr=!!python/name:os.system", "is not valid YAML"),
        (f"lr={'[' * 2000}", "is not valid YAML"),
    ],
)
def test_values_of_a_recipe_are_refused_by_its_key(setting: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        RunOptions(data="x", settings=[setting]).load_recipe(TRAINING)


def test_options_from_python_are_checked_alike() -> None:
    with pytest.raises(UserError, match=r"--workers takes a whole number from 0 to 1024, got 1\.5"):
        Execution(workers=1.5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--resume takes true or false, got 1"):
        Execution(resume=1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave distill on"):
        Adaptation(unlabelled=True, distill=False)
    with pytest.raises(UserError, match="There is no task 'pictures'; known are classification, segmentation, text"):
        RunOptions(data="x", task="pictures").load_recipe(TRAINING)
    assert Execution(workers=0) == Execution(workers=0)
