"""Two processes train as one does; killed, and started again by torchrun or accelerate, they end with the same bits."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import first_digits
from tests.distributed import run_processes
from tests.training.test_resume import RECIPE, die_at_call, outcome, train
from timm_layeract.training import engine

pytestmark = pytest.mark.xdist_group("launched")  # one worker, which trains the whole run once

SHARED = RECIPE.replace(
    ema_decay=0.0, mixed_precision="no", accumulate=1, sync_batch_norm=True, batch_size=21, label_smoothing=0.0
)
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                   "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"],
}  # fmt: skip


def train_two(_: int, output: Path) -> None:
    """Train as one of two processes; what a network draws, it draws for each of them, so it draws nothing."""
    train(first_digits(), output, SHARED, drop_rate=0.0)


def main() -> None:
    """What a launcher starts: each process is killed in its eighth step, but not the second time."""
    output, rank = Path(sys.argv[1]), os.environ["RANK"]
    killed = output.with_name(f"killed.{rank}")
    if not killed.exists():
        killed.touch()
        die_at_call(engine.Trainer, "_optimizer_step", 8)
    train_two(int(rank), output)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nothing happens to."""
    output = tmp_path_factory.mktemp("whole")
    run_processes(partial(train_two, output=output), 2)
    return output


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, whole: Path) -> None:
    """Images, their order and augmentation are those of one process; sums in another order are not."""
    train_two(0, tmp_path)
    two, one = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (whole, tmp_path)
    )
    for epoch_of_two, epoch_of_one in zip(two, one, strict=True):
        for part in ("train", "val"):
            assert epoch_of_two[part]["loss"] == pytest.approx(epoch_of_one[part]["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_started_again_end_with_the_same_bits(launcher: str, tmp_path: Path, whole: Path) -> None:
    code = f"from {__name__} import main; main()"
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(script), str(tmp_path / "run")]
    surroundings = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert first.returncode != 0
    assert "-9" in first.stderr  # SIGKILL
    assert not (tmp_path / "run" / "result.json").exists()
    again = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert outcome(tmp_path / "run") == outcome(whole)
