"""The command line: it teaches, it trains, and a user's mistake is one line and exit code 2."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from accelerate.tracking import GeneralTracker
from filelock import FileLock

import timm_layeract
from tests.data.test_sources import parquet
from timm_layeract import cli
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError, WriteError
from timm_layeract.training import run, runs
from timm_layeract.training.recipe import list_recipes
from timm_layeract.training.runs import list_runs

ROOT = Path(__file__).parents[2]


def layeract(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command in this process; returns exit code, output, errors."""
    original, sys.argv = sys.argv, ["layeract", *arguments]
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = original
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


COMMANDS = (
    *("train", "finetune", "adapt", "sweep", "recipes", "runs", "compare"),
    *("list", "info", "download", "convert", "predict", "publish", "embed"),
    *("evaluate", "robustness", "corrupt", "significance", "shifts", "r-score", "convergence", "analyze"),
)


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_help_teaches(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = layeract(*command, "--help", capsys=capsys)
    assert code == 0
    assert "layeract" in out
    if command and command[0] != "recipes":
        assert "Example" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = layeract("--version", capsys=capsys)
    assert code == 0
    assert out.startswith(f"timm-layeract {timm_layeract.__version__} (timm {timm.__version__}, torch ")


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = layeract("recipes", capsys=capsys)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list_recipes()


def test_a_dry_run_tells_what_would_be_and_leaves_nothing(
    tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "data", digits, {"train": 100, "test": 30})
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", "resnet20_lasilu", "-d", "data", "--epochs", "3", "--batch-size", "16"]
    sizes = ["--set", "image_size=[8, 8]", "--set", "progressive_sizes=[[0.5, 4]]"]
    code, out, _ = layeract("train", *arguments, *sizes, "--dry-run", capsys=capsys)
    assert code == 0
    for words in ("batch_size: 16", "269,722 parameters", "90 images to train on, 10 held out, 30 to test on, at 8x8",
                  "15 in 3 epochs of 5", "images/s", "measured on 6 steps of each size"):  # fmt: skip
        assert words in out
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(("epochs", "steps"), [("2", "10 in 2 epochs of 5"), ("0", "0 in 0 epochs of 5")])
def test_a_dry_run_of_an_adaptation_leaves_nothing_either(
    epochs: str, steps: str, tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    parquet(tmp_path / "data", digits, {"train": 100, "test": 30})
    monkeypatch.chdir(tmp_path)
    words = ["adapt", "resnet20.cifar10_quick", "-d", "data", "--unlabelled", "--epochs", epochs, "--batch-size", "16"]
    code, out, _ = layeract(*words, "--dry-run", capsys=capsys)
    assert code == 0
    for said in ("resnet20.cifar10_quick to lasilu: 269,722 parameters", "90 images to train on, 10 held out", steps):
        assert said in out
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    code, _, err = layeract(*words, capsys=capsys)
    assert (code, "Say where to put the run with --output" in err) == (2, True)


def test_runs_are_listed_with_their_state(
    tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "data", digits, {"train": 60, "test": 30})
    sizes = ["--epochs", "1", "--batch-size", "16", "--set", "image_size=[8, 8]", "-d", str(tmp_path / "data")]
    for name in ("first", "second"):
        assert layeract("train", "-m", "resnet20", "-o", str(tmp_path / "runs" / name), *sizes, capsys=capsys)[0] == 0
    (tmp_path / "runs" / "second" / "result.json").unlink()
    finished, stopped = list_runs(tmp_path / "runs")
    assert (finished["state"], stopped["state"]) == ("finished", "stopped")
    assert finished["best"] == stopped["best"]
    assert set(finished["test"]) == {"loss", "top1", "images"}
    with FileLock(tmp_path / "runs" / "second" / ".lock"):
        assert list_runs(tmp_path / "runs")[1]["state"] == "running"
    (tmp_path / "runs" / "first").rename(tmp_path / "runs" / "a_first_run_of_a_long_name.seed11")
    monkeypatch.setenv("COLUMNS", "80")
    assert "a_first_run_of_a_long_name.seed11 " in layeract("runs", str(tmp_path / "runs"), capsys=capsys)[1]
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = layeract("runs", str(tmp_path / "runs"), capsys=capsys)
    assert code == 0
    out = out.replace("a_first_run_of_a_long_name.seed11", "first")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["first", "resnet20"], ["second", "resnet20"]]
    assert "holds no runs" in layeract("runs", str(tmp_path / "data"), capsys=capsys)[2]
    assert "no folder" in layeract("runs", str(tmp_path / "absent"), capsys=capsys)[2]


def test_figures_reach_a_tracker(
    tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "data", digits, {"train": 60})
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(run, "check_tracker", lambda name: (Recorder(name, logged),))
    arguments = ["-m", "resnet20", "-d", str(tmp_path / "data"), "-o", str(tmp_path / "run"), "--tracker", "recorder"]
    sizes = ["--epochs", "2", "--batch-size", "16", "--set", "image_size=[8, 8]"]
    assert layeract("train", *arguments, *sizes, capsys=capsys)[0] == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [values["val/top1"] for values in logged] == [epoch["val"]["top1"] for epoch in log]
    assert [values["step"] for values in logged] == [1, 2]


class Recorder(GeneralTracker):
    """A tracker that keeps what it is told."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self, name: str, logged: list[dict[str, float]]) -> None:
        super().__init__()
        self.logged = logged

    @property
    def tracker(self) -> list[dict[str, float]]:
        return self.logged

    def store_init_configuration(self, values: dict[str, object]) -> None:
        assert values["epochs"] == 2

    def log(self, values: dict[str, float], step: int | None = None, **_: object) -> None:
        self.logged.append({**values, "step": step or 0})


def test_train_then_finetune_what_was_trained(
    tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet(tmp_path, digits, {"train": 150, "test": 30})
    common = ["--data", str(tmp_path), "--epochs", "1", "--batch-size", "16", "--set", "image_size=[8, 8]"]
    first, second = tmp_path / "first", tmp_path / "second"
    code, out, err = layeract(
        "train", "-m", "resnet20_lahardsilu", "-o", str(first), "-r", "cifar10_fast", *common,
        "--data-name", "digits", capsys=capsys,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "epoch   1/1" in out
    result = json.loads((first / "result.json").read_text())
    assert (result["data"]["name"], result["recipe"]["batch_size"]) == ("digits", 16)
    code, out, _ = layeract("finetune", "-m", f"local-dir:{first / 'model'}", "-o", str(second), *common, capsys=capsys)
    assert code == 0
    assert json.loads((second / "result.json").read_text())["started_from"].startswith("local-dir:")
    assert timm.create_model(f"local-dir:{second / 'model'}", pretrained=True).num_classes == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "resnet20_lasil", "-d", "x/y"], "did you mean 'resnet20_lasilu'"),
        (["-m", "resnet20", "-d", "../nowhere"], "no data folder ../nowhere"),
        (["-m", "resnet20", "-d", "x/y", "-r", "cifar"], "no recipe 'cifar'"),
        (["-m", "resnet20", "-d", "x/y", "--set", "lr"], "--set takes key=value"),
        (["-m", "resnet20", "-d", "x/y", "--set", "rl=1"], "unknown key 'rl'"),
        (["-m", "resnet20", "-d", "x/y", "--set", "epochs=1", "--epochs", "2"], "epochs is given twice"),
        (["-m", "resnet20", "-d", "x/y", "--epochs", "0"], "trains for 0 epochs"),
        (["-m", "resnet20", "-d", "x/y", "--epochs", "2", "--set", "steps=9"], "epochs or steps, and not both"),
        (["-m", "resnet20", "-d", "nobody/nothing"], "neither a folder here nor a Hub data set"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    code, out, err = layeract("train", *arguments, "-o", str(output), capsys=capsys)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not output.exists()


def test_labels_outside_the_head(tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str]) -> None:
    parquet(tmp_path, digits, {"train": 60})
    output = tmp_path / "run"
    arguments = ["-m", "resnet20", "-d", str(tmp_path), "-o", str(output), "--num-classes", "4", "--batch-size", "8"]
    code, _, err = layeract("train", *arguments, capsys=capsys)
    assert code == 2
    assert "labels up to 9 (10 classes), the model's head has 4" in err
    assert not output.exists()


def test_script_for_accelerate_launch_is_the_train_command() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "train.py", "-m", "resnet20_lasil", "-d", "x", "-o", "y"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("layeract: Unknown model")


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path, digits: ImageSplit) -> None:
    parquet(tmp_path, digits, {"train": 95, "test": 33})
    arguments = ["-m", "resnet20_lasilu", "-d", str(tmp_path), "-o", str(tmp_path / "run"), "-r", "cifar10_resnet"]
    sizes = ["--epochs", "1", "--batch-size", "16", "--set", "image_size=[8, 8]"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, ROOT / "scripts" / "train.py", *arguments, *sizes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1  # only the main process speaks
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["processes"] == 2
    assert result["test"]["images"] == 33
    assert result["test"]["top1"] * 33 / 100 == pytest.approx(round(result["test"]["top1"] * 33 / 100))  # none twice


def test_importing_registers_names_and_needs_nothing_but_torch_and_timm() -> None:
    heavy = ["accelerate", "datasets", "segmentation_models_pytorch", "matplotlib", "sklearn", "typer", "rich"]
    code = (
        "import sys, timm; before = set(sys.modules); import timm_layeract; "
        f"print([name for name in {heavy} if name in set(sys.modules) - before], timm.is_model('resnet20_lasilu'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("x" * 3000 + " is too long"), 2, "x is too long"),
        (OSError(errno.ENOSPC, "No space left on device", "out"), 1, "No space left on device"),
        (WriteError(errno.ENOSPC, "No space left on device", "out"), 1, "out cannot be written"),
        (WriteError(errno.ENOENT, "No such file or directory", "/proc/x"), 2, "/proc/x cannot be written"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"), 2, "No such file"),
        (
            ZeroDivisionError("several\nlines"),
            1,
            "ZeroDivisionError: several lines (`layeract --debug ...` shows where.)",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_a_code(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: Path) -> None:
        raise error

    monkeypatch.setattr(runs, "runs_table", fail)
    found, _, err = layeract("runs", capsys=capsys)
    assert found == code
    assert says in err
    assert len(err) <= 300
    assert err.count("\n") <= 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["layeract", "--debug", "info", "nosuch"])
    with pytest.raises(UserError, match="no trained weights"):
        cli.main()


def test_a_run_of_which_nothing_comes_leaves_nothing(
    tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "data", digits, {"train": 64, "test": 10})
    output = tmp_path / "new" / "run"
    arguments = ["-m", "resnet20", "-d", str(tmp_path / "data"), "-r", "cifar10_fast", "--epochs", "2", "--lr", "1e30"]
    arguments += ["--batch-size", "8", "--set", "warmup=0"]
    code, _, err = layeract("train", *arguments, "-o", str(output), capsys=capsys)
    assert code == 2
    assert "not finite" in err
    assert not output.parent.exists()
