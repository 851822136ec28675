"""What the engine does on a GPU, as far as it can be told without one: figures read late, data there, CUDA graphs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError
from timm_layeract.training import cuda_graph, engine
from timm_layeract.training.device_data import on_device
from timm_layeract.training.engine import Trainer
from timm_layeract.training.history import EpochRecord
from timm_layeract.training.measurements import AT_ONCE, DivergedError, Measurements, added
from timm_layeract.training.recipe import Recipe, load_recipe
from timm_layeract.training.tasks.classification import Classification

CUDA = torch.device("cuda")
RECIPE = Recipe(
    name="tiny", epochs=2, batch_size=32, lr=0.05, random_erasing=0.5, ema_decay=0.9, channels_last=True,
    mixed_precision="bf16", label_smoothing=0.1,
)  # fmt: skip


def trained(recipe: Recipe, digits: ImageSplit, output: Path) -> tuple[list[EpochRecord], dict[str, Tensor]]:
    """Records and weights of a short run."""
    torch.manual_seed(0)
    model = timm.create_model("resnet20_lasilu", num_classes=10, drop_rate=0.2)
    train, val = digits.take(torch.arange(96)), digits.take(torch.arange(96, 160))
    trainer = Trainer(model, recipe, Classification(model, recipe, train), train, val, output, progress=False)
    records = list(trainer.fit())
    return records, {name: tensor.clone() for name, tensor in trainer.evaluated.state_dict().items()}


def assert_same_run(one: tuple[Any, dict[str, Tensor]], other: tuple[Any, dict[str, Tensor]]) -> None:
    assert one[0] == other[0]
    assert all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_that_are_read_late_have_the_same_sums() -> None:
    rows = torch.randn(2 * AT_ONCE + 3, 3).mul(1e3)
    early, late = Measurements(torch.device("cpu")), Measurements(CUDA)
    for step, row in enumerate(rows):
        early.add(row, torch.tensor(1.0), 0, step, 0.1)
        late.add(row, torch.tensor(1.0), 0, step, 0.1)
    assert len(late._waiting) == 3
    assert torch.equal(early.sums, late.sums)  # type: ignore[arg-type]
    assert torch.equal(added(list(rows)), late.sums)  # type: ignore[arg-type]
    assert late.sums.dtype == torch.float64  # type: ignore[union-attr]


def test_a_loss_that_is_not_finite_is_named_by_its_own_step_however_late() -> None:
    measured = Measurements(CUDA)
    for step in range(AT_ONCE - 1):
        measured.add(torch.ones(2), torch.tensor(float("nan") if step == 4 else 1.0), 1, step, 0.1 * step)
    with pytest.raises(DivergedError, match=r"epoch 2, step 5 \(lr 0\.4\)"):
        measured.add(torch.ones(2), torch.tensor(1.0), 1, AT_ONCE, 0.1)
    measured = Measurements(torch.device("cpu"))
    with pytest.raises(DivergedError):
        measured.add(torch.ones(2), torch.tensor(float("inf")), 0, 0, 0.1)


def test_no_checkpoint_keeps_a_network_that_has_diverged(
    digits: ImageSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Measurements", lambda _: Measurements(CUDA))
    monkeypatch.setattr(Classification, "loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(DivergedError, match="epoch 1, step 1 "):
        trained(RECIPE, digits, tmp_path)
    assert not list(tmp_path.rglob("step-*"))


# --- data on the device -----------------------------------------------------------------------------------------------


def test_data_on_the_device_makes_the_same_run(digits: ImageSplit, tmp_path: Path) -> None:
    here = trained(RECIPE.replace(data_on_device="false"), digits, tmp_path / "here")
    there = trained(RECIPE.replace(data_on_device="true"), digits, tmp_path / "there")
    assert_same_run(here, there)


def test_data_goes_where_there_is_room(digits: ImageSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    split, cpu = digits.take(torch.arange(10)), torch.device("cpu")
    assert on_device(split, "auto", cpu) is None
    assert on_device(split, "false", cpu) is None
    data = on_device(split, "true", cpu)
    assert data is not None
    (images, labels), *_ = data.batches([[3, 1], [2]])
    assert torch.equal(images, split.images[[3, 1]])
    assert torch.equal(labels, split.labels[[3, 1]])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 100))
    assert on_device(split, "auto", CUDA) is None
    with pytest.raises(UserError, match="GB"):
        on_device(split, "true", CUDA)
    assert on_device(object(), "auto", CUDA) is None
    with pytest.raises(UserError, match="equal size"):
        on_device(object(), "true", CUDA)


def test_recipe_reads_how_a_run_is_done_and_leaves_it_out_of_results(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 1\ncuda_graph: true\ndata_on_device: true\n")
    recipe = load_recipe(str(path))
    assert recipe.cuda_graph
    assert recipe.data_on_device == "true"
    assert recipe.to_dict() == dataclasses.replace(recipe, cuda_graph=False, data_on_device="auto").to_dict()
    path.write_text("epochs: 1\ndata_on_device: maybe\n")
    with pytest.raises(UserError, match="auto, true, false"):
        load_recipe(str(path))


# --- CUDA graphs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Captures that run what they captured once more, into the same tensors; how many there were."""
    captures: list[int] = []
    calls: list[tuple[Trainer, tuple[Tensor, Tensor]]] = []
    passes = Trainer._passes

    def recorded(self: Trainer, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        calls.append((self, passes(self, *arguments)))
        return calls[-1][1]

    def capture(body: Callable[[], None]) -> Callable[[], None]:
        captures.append(1)
        for _ in range(cuda_graph.WARM_UP + 1):
            body()
        trainer, found = calls[-1]
        parameters = list(trainer.unwrapped.parameters())
        gradients = [parameter.grad for parameter in parameters]

        def replay() -> None:
            body()
            for old, new in zip(found, calls[-1][1], strict=True):
                old.copy_(new)
            for old_gradient, parameter in zip(gradients, parameters, strict=True):
                old_gradient.copy_(parameter.grad)  # type: ignore[union-attr,arg-type]
                parameter.grad = None

        return replay

    monkeypatch.setattr(Trainer, "_passes", recorded)
    monkeypatch.setattr(cuda_graph, "capture", capture)
    monkeypatch.setattr(engine, "check_capturable", lambda *_: None)
    return captures


def test_a_captured_step_makes_the_same_run(pretended: list[int], digits: ImageSplit, tmp_path: Path) -> None:
    recipe = RECIPE.replace(progressive_sizes=((0.5, 6),), accumulate=1)
    plain = trained(recipe, digits, tmp_path / "plain")
    assert not pretended
    captured = trained(recipe.replace(cuda_graph=True), digits, tmp_path / "captured")
    assert len(pretended) == 2  # one for each size
    assert_same_run(plain, captured)


def test_what_cannot_be_captured_is_refused() -> None:
    recipe = RECIPE.replace(cuda_graph=True)
    cuda_graph.check_capturable(recipe, CUDA, 1)
    for device, processes, changes, fault in (
        (torch.device("cpu"), 1, {}, "needs an NVIDIA GPU"),
        (CUDA, 2, {}, "single process"),
        (CUDA, 1, {"accumulate": 2}, "accumulate to 1"),
        (CUDA, 1, {"mixed_precision": "fp16"}, "fp16"),
    ):
        with pytest.raises(UserError, match=fault):
            cuda_graph.check_capturable(recipe.replace(**changes), device, processes)
    with pytest.raises(UserError, match="texts"):
        cuda_graph.check_capturable(Recipe(name="tiny", epochs=1, task="text", cuda_graph=True), CUDA, 1)


def test_a_graph_is_refused_where_there_is_no_gpu(digits: ImageSplit, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        trained(RECIPE.replace(cuda_graph=True), digits, tmp_path)


def test_a_failing_capture_and_a_teacher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(2, 2)
    graphs = cuda_graph.StepGraphs(network, lambda x, y: (x.sum(0), x.sum()))
    with pytest.raises(UserError, match="taught by another"):
        graphs(torch.ones(1, 2), object())

    def fail(_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "capture", fail)
    with pytest.raises(UserError, match="not permitted"):
        graphs(torch.ones(1, 2), torch.ones(1))
