"""Checkpoints hold no pickles: what is written comes back to the bit, and a planted pickle is not run."""

import contextlib
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.training.test_resume import RECIPE, train
from timm_layeract.checkpoints.save import file_sha256
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError
from timm_layeract.networks import load_network
from timm_layeract.release.embed import embed_runs
from timm_layeract.training.compare import compare_runs
from timm_layeract.training.processes import check_distribution
from timm_layeract.training.runs import list_runs
from timm_layeract.training.states import RandomState, read_state, write_state
from timm_layeract.training.sweep import plan

ONE_EPOCH = RECIPE.replace(epochs=1)


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.mark, "boom")


def plain_pickle(bomb: Bomb, path: Path) -> None:
    path.write_bytes(pickle.dumps(bomb))


def torch_pickle(bomb: Bomb, path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"state": bomb}, file)


def _load_by_torch(file: BinaryIO) -> object:
    return torch.load(file, weights_only=False)


PICKLES = [plain_pickle, torch_pickle]


def same(one: object, other: object) -> bool:
    """Whether two trees are the same, types and layouts of tensors included."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))  # type: ignore[arg-type]
    return type(one) is type(other) and one == other


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 4, 5)
    shared = torch.arange(6.0)
    state = {
        "numbers": [0, -1, 2**40, 0.1, float("inf"), True, None, "text", 1e-320],
        7: {"exp_avg": images.to(memory_format=torch.channels_last), "betas": (0.9, 0.999)},
        "empty": [{}, [], (), torch.zeros(0, 3)],
        "kinds": [torch.tensor(3), torch.ones(2, dtype=torch.bfloat16), torch.tensor([True]), images[:, 1].double()],
        "shared": [shared, shared, shared.view(2, 3).t(), shared[2:4], images[1]],
    }
    write_state(tmp_path / "state.safetensors", state)
    state["kinds"][3] = state["kinds"][3].contiguous()  # type: ignore[index]
    assert same(read_state(tmp_path / "state.safetensors"), state)
    for other in ({"model": Bomb(tmp_path)}, {(1, 2): 3}, {"set": {1}}):
        with pytest.raises(TypeError, match="a state cannot hold"):
            write_state(tmp_path / "other.safetensors", other)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_random_numbers_go_on(tmp_path: Path) -> None:
    def draw() -> list[object]:
        return [random.gauss(0, 1), np.random.normal(size=3).tolist(), np.random.bytes(8), torch.randn(3).tolist()]

    random.gauss(0, 1), np.random.normal()  # which keep a second number for the next call
    state = RandomState(torch.device("cpu"))
    write_state(tmp_path / "random.safetensors", state.state_dict())
    drawn = draw()
    assert draw() != drawn
    state.load_state_dict(read_state(tmp_path / "random.safetensors"))
    assert draw() == drawn


def test_random_numbers_of_a_device_are_those_of_its_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = [torch.arange(16, dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: numbers[-1])
    monkeypatch.setattr(torch.cuda, "set_rng_state", numbers.append)
    state = RandomState(torch.device("cuda", 0))
    write_state(tmp_path / "random.safetensors", state.state_dict())
    state.load_state_dict(read_state(tmp_path / "random.safetensors"))
    assert len(numbers) == 2
    assert torch.equal(numbers[1], numbers[0])
    state.load_state_dict(RandomState(torch.device("cpu")).state_dict())  # a run that goes on from a CPU's
    assert len(numbers) == 2


@pytest.mark.parametrize(("write", "read"), [(plain_pickle, pickle.load), (torch_pickle, _load_by_torch)])
def test_the_pickles_here_run_code(
    write: Callable[[Bomb, Path], None], read: Callable[[BinaryIO], object], tmp_path: Path
) -> None:
    write(Bomb(tmp_path / "ran"), tmp_path / "file")
    with (tmp_path / "file").open("rb") as file:
        read(file)
    assert (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, digits: ImageSplit) -> Path:
    """A run without its result, so that resuming reads a checkpoint."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    train(digits, folder, ONE_EPOCH, checkpoint_steps=1000)
    (folder / "result.json").unlink()
    return folder


def seal(checkpoint: Path) -> None:
    """List the hashes of what lies there, as whoever changes files does too."""
    files = {path.name: file_sha256(path) for path in checkpoint.iterdir() if path.name != "seal.json"}
    (checkpoint / "seal.json").write_text(json.dumps(files))


def test_a_checkpoint_is_safetensors_and_json(stopped: Path) -> None:
    (checkpoint,) = (stopped / "checkpoints").iterdir()
    names = {"model", "optimizer", "schedule", "progress", "averaged", "random-0"}
    assert {path.name for path in checkpoint.iterdir()} == {f"{name}.safetensors" for name in names} | {"seal.json"}
    for path in checkpoint.glob("*.safetensors"):
        read_state(path)


# What accelerate calls its pickles, which checkpoints of earlier versions hold.
EARLIER = ["optimizer.bin", "scheduler.bin", "scaler.pt", "random_states_0.pkl", "custom_checkpoint_0.pkl", "model.bin"]
FILES = ["model", "optimizer", "schedule", "progress", "averaged", "random-0", "scaler"]


@pytest.mark.parametrize("write", PICKLES)
@pytest.mark.parametrize("name", [*(f"{name}.safetensors" for name in FILES), *EARLIER, "seal.json"])
def test_a_pickle_in_a_checkpoint_is_not_run(
    write: Callable[[Bomb, Path], None], name: str, stopped: Path, tmp_path: Path, digits: ImageSplit
) -> None:
    run, mark = tmp_path / "run", tmp_path / "ran"
    shutil.copytree(stopped, run)
    (checkpoint,) = (run / "checkpoints").iterdir()
    write(Bomb(mark), checkpoint / name)
    if name != "seal.json":
        seal(checkpoint)
    if name == "scaler.safetensors":  # this run has no scaler, and leaves it
        train(digits, run, ONE_EPOCH)
    else:
        with pytest.raises(UserError) as error:
            train(digits, run, ONE_EPOCH)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
        if name in EARLIER:
            assert f"{name} is a pickle, as earlier versions wrote, which can run code" in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("write", PICKLES)
def test_a_pickle_in_a_runs_folder_is_not_run(
    write: Callable[[Bomb, Path], None], stopped: Path, tmp_path: Path, digits: ImageSplit
) -> None:
    mark, finished = tmp_path / "ran", tmp_path / "finished"
    shutil.copytree(stopped, finished)
    train(digits, finished, ONE_EPOCH)
    files = sorted(path.relative_to(finished) for path in finished.rglob("*") if path.is_file())
    assert len(files) > 12

    def read(run: Path) -> list[Callable[[], Any]]:
        planned = plan(["resnet20_lasilu"], [11], ONE_EPOCH, "digits", run.parent)
        return [
            lambda: train(digits, run, ONE_EPOCH),
            lambda: list_runs(run.parent),
            lambda: compare_runs([run], tmp_path / "comparison.json"),
            lambda: [each.is_finished for each in planned],
            lambda: embed_runs([run], "planted", tmp_path / "weights", tmp_path / "cards"),
            lambda: load_network(str(run)),
            lambda: load_network(f"resnet20_lasilu={run / 'best.safetensors'}"),
        ]

    run = tmp_path / "runs" / "resnet20_lasilu.seed11"
    for file in [*files, Path("model/pytorch_model.bin"), Path("checkpoints/random_states_0.pkl")]:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished, run)
        write(Bomb(mark), run / file)
        for step in read(run):
            with contextlib.suppress(UserError):
                step()
        assert not mark.exists(), file


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe\x00", b'{"a": ', b"[1, 2]", b"null"])
def test_json_that_is_none_is_refused_in_a_line(
    content: bytes, stopped: Path, tmp_path: Path, digits: ImageSplit
) -> None:
    (checkpoint,) = (stopped / "checkpoints").iterdir()
    reads: dict[Path, Callable[[Path], object]] = {
        checkpoint.relative_to(stopped) / "seal.json": lambda run: train(digits, run, ONE_EPOCH),
        Path("run.json"): lambda run: train(digits, run, ONE_EPOCH),
        Path("log.jsonl"): lambda run: list_runs(run.parent),
        Path("result.json"): lambda run: compare_runs([run], run.parent / "comparison.json"),
        Path("model/config.json"): lambda run: load_network(str(run)),
    }
    for number, (file, read) in enumerate(reads.items()):
        run = tmp_path / str(number) / "run"
        shutil.copytree(stopped, run)
        (run / file).write_bytes(content)
        with pytest.raises(UserError) as error:
            read(run)
        assert "\n" not in str(error.value), file


def test_a_checkpoint_of_another_network_is_named(stopped: Path, tmp_path: Path, digits: ImageSplit) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    (checkpoint,) = (run / "checkpoints").iterdir()
    write_state(checkpoint / "optimizer.safetensors", {"state": {}, "param_groups": []})
    seal(checkpoint)
    with pytest.raises(UserError, match=r"optimizer\.safetensors does not fit this run: ValueError"):
        train(digits, run, ONE_EPOCH)
    progress = {"history": [], "times": [], "seconds": 0.0, "step": 0, "sums": None}
    write_state(
        checkpoint / "optimizer.safetensors",
        read_state(stopped / checkpoint.relative_to(run) / "optimizer.safetensors"),
    )
    epoch = {"epoch": 0, "lr": 0.1, "train": {"loss": 1.0}, "val": {"loss": 1.0}}
    write_state(checkpoint / "progress.safetensors", {**progress, "history": [epoch]})
    seal(checkpoint)
    with pytest.raises(UserError, match=r"progress\.safetensors does not fit this run: .* have no top1"):
        train(digits, run, ONE_EPOCH)
    save_file({"0": torch.zeros(3)}, checkpoint / "model.safetensors", {"tree": '{"wrong": [1]}'})
    seal(checkpoint)
    with pytest.raises(UserError, match=r"model\.safetensors is not the state of a run: KeyError"):
        train(digits, run, ONE_EPOCH)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharded_networks_are_refused(kind: str) -> None:
    class Sharding:
        distributed_type = kind

    with pytest.raises(UserError, match=f"{kind} shards the network over processes"):
        check_distribution(Sharding())  # type: ignore[arg-type]
