"""fuse, unfuse and fuse(inference=True): the same network, by other code."""

import copy
import pickle
import weakref
from collections.abc import Iterator

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BlurPool2d
from timm.models import create_feature_extractor
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torch.jit._script import call_prepare_scriptable_func

import timm_layeract
from timm_layeract import LASiLU, fuse, kernels, swap_activations, unfuse
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.errors import UserError
from timm_layeract.kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")

ARCHITECTURES = [
    "resnet20_lasilu", "resnet18_lahardsilu", "resnet26_lasilu", "resnet26d_lasilu", "seresnet50_lasilu",
    "resnext50_32x4d_lahardsilu",
]  # fmt: skip


def network(name: str = "resnet20_lasilu", **arguments: object) -> nn.Module:
    """A model whose BatchNorms do something."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def images(count: int = 3, side: int = 40) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def fused_calls(model: nn.Module, x: Tensor) -> int:
    """How many BatchNorm + LayerAct kernels a forward pass runs."""
    seen, found = set(), 0
    todo = [model(x).grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += "FusedBatchNormLayerAct" in type(node).__name__
        todo += [following for following, _ in node.next_functions]
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fused_network_is_the_same_network(name: str) -> None:
    results = []
    for fused in (True, False):
        model = network(name, fused=fused)
        with kernels.use_backend("cpu" if fused else "composite"):
            model.train()(images()).square().sum().backward()
            model.eval()
            tensors = [model(images()), *(p.grad for p in model.parameters()), *model.buffers()]
            results.append([t.detach().double() for t in tensors])
    for actual, expected in zip(*results, strict=True):
        assert float((actual - expected).norm()) <= 2e-4 * max(float(expected.norm()), 1e-3)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("resnet20_lasilu", 19),
        ("resnet50_lasilu", 49),
        ("resnet26d_lasilu", 27),
        ("seresnet50_lasilu", 33),
        ("resnet20", 0),
    ],
)
def test_every_site_runs_the_kernel(name: str, calls: int) -> None:
    # seresnet's 16 block ends have squeeze-and-excitation between BatchNorm and the sum
    assert fused_calls(network(name), images()) == calls
    assert fused_calls(unfuse(network(name)), images()) == 0


def test_fused_by_default_and_undone_in_place() -> None:
    model, plain = network(), network(fused=False)
    assert type(model) is not type(plain)
    assert unfuse(model) is model
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert fuse(model) is model
    assert fuse(model) is model
    assert fused_calls(model, images()) == 19


def test_keys_fingerprint_and_saved_config_do_not_change() -> None:
    model, plain = network(), network(fused=False)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert activation_fingerprint(model) == activation_fingerprint(plain)
    plain.load_state_dict(model.state_dict())
    assert model._model_args == plain._model_args


def test_copies_pickles_and_pretrained_weights() -> None:
    model = timm.create_model("resnet20_lasilu", pretrained=True).eval()
    x = images(2, 32)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert fused_calls(other, x) == 19


def test_stock_network_after_a_swap() -> None:
    model = timm.create_model("resnet26", num_classes=5)
    swap_activations(model, "lasilu")
    assert fused_calls(model, images()) == 0
    assert fused_calls(fuse(model), images()) == 25
    swap_activations(model, "relu")
    assert fused_calls(model, images()) == 0


def test_sequential() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), LASiLU(), nn.BatchNorm2d(4), LASiLU(), nn.Flatten())
    expected = model(images())
    assert fused_calls(fuse(model), images()) == 2
    torch.testing.assert_close(model(images()), expected)


def test_options_between_norm_and_activation_still_work() -> None:
    for name, options in [
        ("resnet20_lasilu", dict(drop_path_rate=0.3)),
        ("resnet26_lasilu", dict(drop_path_rate=0.3)),
        ("resnet26_lasilu", dict(drop_block_rate=0.2)),
        ("resnet26_lasilu", dict(aa_layer=BlurPool2d)),
        ("resnet26_lasilu", dict(output_stride=8)),
    ]:
        values = []
        for fused in (True, False):
            model = network(name, fused=fused, **options).train()
            torch.manual_seed(3)
            values.append(model(images(side=64)))
        torch.testing.assert_close(*values, rtol=1e-3, atol=1e-4)


def test_gradient_checkpointing() -> None:
    grads = []
    for enable in (False, True):
        model = network("resnet26_lasilu").train()
        model.set_grad_checkpointing(enable)
        model(images()).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_hooks_see_what_they_saw() -> None:
    model = network()
    seen: list[Tensor] = []
    model.layer1[0].bn1.register_forward_hook(lambda _, __, out: seen.append(out))
    model.layer1[1].act2.register_forward_hook(lambda _, __, out: seen.append(out))
    model(images())
    assert len(seen) == 2


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_programs_that_are_read_see_the_plain_network() -> None:
    model = network().eval()
    x = images()
    expected = model(x)
    torch.testing.assert_close(torch.jit.script(model)(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected, rtol=1e-4, atol=1e-5)
    exported = torch.export.export(model, (x,))
    assert any("layer_norm" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), expected, rtol=1e-4, atol=1e-5)
    features = create_feature_extractor(model, {"layer1.0.act1": "out"})(x)["out"]
    assert features.shape == (3, 16, 40, 40)
    assert fused_calls(model.requires_grad_(), x) == 19


def test_features_only() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet50_lasilu", features_only=True)
    assert [f.shape[1] for f in model(images(2, 64))] == [64, 256, 512, 1024, 2048]


@pytest.mark.parametrize("name", ["resnet20_lasilu", "resnet50_lasilu", "resnet26d_lahardsilu", "resnet20"])
def test_folded_for_inference(name: str) -> None:
    model = network(name).eval()
    folded = fuse(model, inference=True)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for x in (images(), images().contiguous(memory_format=torch.channels_last)):
        kept = x.clone()
        with torch.inference_mode():
            expected, actual = model(x), folded(x)
        assert float((actual - expected).norm() / expected.norm()) < 1e-4
        assert torch.equal(x, kept)
    folded(images()).sum().backward()  # gradients reach the image all the same
    with pytest.raises(UserError, match=r"model\.eval\(\)"):
        fuse(model.train(), inference=True)


def test_folded_sequential_leaves_its_input() -> None:
    model = fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), LASiLU()).eval(), inference=True)
    plain = fuse(nn.Sequential(nn.Identity(), LASiLU()).eval())
    x = images()
    kept = x.clone()
    with torch.no_grad():
        model(x), plain(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", ["resnet20_lasilu", "resnet26d_lasilu", "resnet18_lahardsilu"])
def test_what_was_taken_from_a_folded_convolution_stays_as_it_was(name: str) -> None:
    model = fuse(network(name).eval(), inference=True)
    taken: list[Tensor] = []
    kept: list[Tensor] = []

    def take(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        taken.append(output.detach()[:1] if len(taken) % 2 else output)
        kept.append(taken[-1].clone())

    with torch.inference_mode():
        expected = model(images())
        watched = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        watched += [m for m in model.modules() if isinstance(m, nn.Sequential) and isinstance(m[-1], nn.Conv2d)]
        for module in watched:
            handle = module.register_forward_hook(take)
            torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-4)
            handle.remove()
        own = model.conv1 if isinstance(model.conv1, nn.Conv2d) else model.conv1[-1]
        forward = own.forward
        own.forward = lambda x: (take(own, (x,), y := forward(x)), y)[1]
        model(images())
    assert len(taken) == len(watched) + 1
    for now, then in zip(taken, kept, strict=True):
        assert torch.equal(now, then)


def test_only_what_nobody_watches_is_overwritten() -> None:
    """Otherwise folding would need as much memory again."""
    model = fuse(network().eval(), inference=True)
    given: list[int] = []
    conv = model.layer1[0].conv1
    with torch.inference_mode():
        handle = model.layer1[0].conv2.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].data_ptr()))
        old, made = nn.functional.conv2d, []
        nn.functional.conv2d = lambda *args, **kwargs: (made.append(old(*args, **kwargs)), made[-1])[1]
        try:
            model(images())
        finally:
            nn.functional.conv2d = old
            handle.remove()
    assert type(conv) is nn.Conv2d
    assert given[0] == made[1].data_ptr()


def losses(model: nn.Module, steps: int) -> Iterator[float]:
    torch.manual_seed(5)
    x, labels = torch.randn(64, 3, 16, 16), torch.randint(0, 5, (64,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        batch = slice(16 * (step % 4), 16 * (step % 4) + 16)
        loss = F.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_fifty_training_steps_go_the_same_way(memory_format: torch.memory_format) -> None:
    fused = list(losses(network().train().to(memory_format=memory_format), 50))
    with kernels.use_backend("composite"):
        plain = list(losses(network(fused=False).train().to(memory_format=memory_format), 50))
    # Rounding grows by itself over the steps; a wrong gradient shows in the first few.
    assert max(abs(a - b) for a, b in zip(fused[:10], plain[:10], strict=True)) < 1e-3
    assert max(abs(a - b) for a, b in zip(fused, plain, strict=True)) < 0.05
    assert fused[-1] < fused[0] / 2


def test_public_names() -> None:
    assert timm_layeract.fuse is fuse
    assert isinstance(network("resnet26_lasilu").layer1[0], Bottleneck)


def test_torchscript_keeps_the_blocks_that_it_replaces() -> None:
    """torch.jit.script tells modules apart by address: one that it freed would leave its address to another."""
    model = fuse(nn.Sequential(*(nn.Sequential(nn.BatchNorm2d(3), LASiLU()) for _ in range(3)))).eval()
    replaced = [weakref.ref(block) for block in model]
    prepared = call_prepare_scriptable_func(model)
    assert all(type(block) is nn.Sequential for block in prepared)
    assert all(reference() is not None for reference in replaced)
