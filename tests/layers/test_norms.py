"""The normalisation layers against numpy in float64, and in the networks that take them by name."""

import copy
import functools
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.scripting import scripting
from timm_layeract import DecorrelatedBatchNorm2d, IEBN2d, ImageLayerNorm, LASiLU, SwitchNorm2d, list_norms
from timm_layeract.layers.decorrelated_norm import inverse_square_root
from timm_layeract.models._compatibility import NormalizationWarning, norms_that_undo

Array = NDArray[np.float64]
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "switchnorm": SwitchNorm2d,
    "iebn": IEBN2d,
    "dbn": functools.partial(DecorrelatedBatchNorm2d, group_size=3),
    "layernorm": ImageLayerNorm,
}
each_layer = pytest.mark.parametrize("name", LAYERS)
each_batch_layer = pytest.mark.parametrize("name", [name for name in LAYERS if name != "layernorm"])


def images(*shape: int, seed: int = 0) -> Tensor:
    """Images whose channels have means and deviations of their own and are correlated."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    mix = torch.randn(shape[1], shape[1], generator=generator, dtype=torch.float64)
    return torch.einsum("dc,nchw->ndhw", mix, x) + torch.arange(shape[1])[:, None, None]


def randomized(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    for parameter in module.double().parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    mean = x.mean(axes, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axes, keepdims=True)


def per_channel(values: Tensor) -> Array:
    return values.detach().numpy().reshape(1, -1, 1, 1)


def switch_norm(x: Array, norm: nn.Module, batch: tuple[Array, Array]) -> Array:
    def softmax(z: Tensor) -> Array:
        e = np.exp(z.detach().numpy())
        return e / e.sum()

    parts = [moments(x, (2, 3)), moments(x, (1, 2, 3)), batch]
    mean = sum(w * part[0] for w, part in zip(softmax(norm.mean_weight), parts, strict=True))
    var = sum(w * part[1] for w, part in zip(softmax(norm.var_weight), parts, strict=True))
    return (x - mean) / np.sqrt(var + 1e-5) * per_channel(norm.weight) + per_channel(norm.bias)


def iebn(x: Array, norm: nn.Module, batch: tuple[Array, Array]) -> Array:
    pooled = x.mean((2, 3), keepdims=True)
    gate = 1 / (1 + np.exp(-(per_channel(norm.gate_weight) * pooled + per_channel(norm.gate_bias))))
    normal = (x - batch[0]) / np.sqrt(batch[1] + 1e-5)
    return normal * per_channel(norm.weight) * gate + per_channel(norm.bias)


REFERENCES = {"switchnorm": (SwitchNorm2d, switch_norm), "iebn": (IEBN2d, iebn)}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (2, 3, 1, 1), (3, 1, 4, 4)], ids=str)
def test_channel_norms_are_those_of_numpy(name: str, shape: tuple[int, ...]) -> None:
    kind, reference = REFERENCES[name]
    norm = randomized(kind(shape[1]))
    running = [np.zeros((1, shape[1], 1, 1)), np.ones((1, shape[1], 1, 1))]
    for seed in range(3):
        x = images(*shape, seed=seed)
        batch = moments(x.numpy(), (0, 2, 3))
        np.testing.assert_allclose(norm(x).detach().numpy(), reference(x.numpy(), norm, batch), rtol=1e-8, atol=1e-8)
        count = shape[0] * shape[2] * shape[3]
        running[0] = 0.9 * running[0] + 0.1 * batch[0]
        running[1] = 0.9 * running[1] + 0.1 * batch[1] * count / (count - 1)
    np.testing.assert_allclose(per_channel(norm.running_mean), running[0], rtol=1e-12)
    np.testing.assert_allclose(per_channel(norm.running_var), running[1], rtol=1e-12)
    expected = reference(x.numpy(), norm, (running[0], running[1]))
    np.testing.assert_allclose(norm.eval()(x).detach().numpy(), expected, rtol=1e-8, atol=1e-8)
    assert norm.num_batches_tracked == 3


def test_fresh_iebn_is_batch_norm_at_a_fixed_gain() -> None:
    x = images(4, 3, 5, 5)
    gain = float(torch.sigmoid(torch.tensor(-1.0, dtype=torch.float64)))
    torch.testing.assert_close(IEBN2d(3).double()(x), gain * nn.BatchNorm2d(3).double()(x))


def whiten(x: Array, groups: int, eps: float) -> Array:
    """ZCA by the singular values of each group."""
    channels = x.transpose(1, 0, 2, 3).reshape(groups, -1, x.shape[0] * x.shape[2] * x.shape[3])
    done = []
    for group in channels:
        centred = group - group.mean(1, keepdims=True)
        u, s, _ = np.linalg.svd(centred / np.sqrt(centred.shape[1]), full_matrices=False)
        done.append(u @ np.diag(1 / np.sqrt(s**2 + eps)) @ u.T @ centred)
    n, c, h, w = x.shape
    return np.stack(done).reshape(c, n, h, w).transpose(1, 0, 2, 3)


@pytest.mark.parametrize(("channels", "group_size"), [(6, 3), (6, 6), (4, 16), (4, 1)])
def test_decorrelated_batch_norm_whitens(channels: int, group_size: int) -> None:
    norm = DecorrelatedBatchNorm2d(channels, group_size, eps=1e-9).double()
    x = images(16, channels, 5, 3)
    y = norm(x).detach()
    groups = channels // min(group_size, channels)
    flat = y.transpose(0, 1).reshape(groups, -1, 16 * 5 * 3)
    covariance = flat @ flat.mT / flat.shape[-1]
    torch.testing.assert_close(covariance, torch.eye(channels // groups, dtype=torch.float64).expand_as(covariance))
    np.testing.assert_allclose(flat.mean(-1), 0, atol=1e-9)
    np.testing.assert_allclose(y.numpy(), whiten(x.numpy(), groups, 1e-9), rtol=1e-5, atol=1e-6)
    for _ in range(300):
        norm(x)
    torch.testing.assert_close(norm.eval()(x), y)  # the running values have come to the batch's


def test_group_of_one_is_batch_norm() -> None:
    x, norm = images(8, 4, 3, 3), randomized(DecorrelatedBatchNorm2d(4, 1))
    plain = nn.BatchNorm2d(4).double()
    plain.load_state_dict({**plain.state_dict(), "weight": norm.weight, "bias": norm.bias})
    torch.testing.assert_close(norm(x), plain(x))


def test_channels_that_do_not_fall_into_groups() -> None:
    with pytest.raises(ValueError, match="20 channels do not fall into groups of 16"):
        DecorrelatedBatchNorm2d(20, 16)


@pytest.mark.parametrize("spectrum", [[3.0, 1.0, 0.2], [2.0, 2.0, 2.0], [1.0, 1.0, 0.5]], ids=str)
def test_gradient_of_the_inverse_root_where_eigenvalues_coincide(spectrum: list[float]) -> None:
    rotation = torch.linalg.qr(images(1, 1, 3, 3)[0, 0]).Q
    matrix = rotation @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ rotation.mT
    root = inverse_square_root(matrix)
    torch.testing.assert_close(root @ matrix @ root, torch.eye(3, dtype=torch.float64))
    leaf = matrix.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: inverse_square_root((m + m.mT) / 2), [leaf])


@each_layer
def test_gradients(name: str) -> None:
    norm = randomized(LAYERS[name](3))
    for mode in (True, False):
        assert torch.autograd.gradcheck(norm.train(mode), [images(3, 3, 2, 2).requires_grad_()])
    norm(images(3, 3, 2, 2)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in norm.parameters())


@each_layer
def test_low_precision_is_computed_in_float32(name: str) -> None:
    norm = LAYERS[name](6)
    x = images(8, 6, 5, 5).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x.bfloat16())
    expected = copy.deepcopy(norm).train()(x.bfloat16().float())
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
    assert y.dtype == torch.bfloat16
    assert norm.weight.dtype == torch.float32


@each_batch_layer
def test_one_value_a_channel_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="more than one value a channel"):
        LAYERS[name](3)(torch.randn(1, 3, 1, 1))
    assert LAYERS[name](3).eval()(torch.randn(1, 3, 1, 1)).isfinite().all()


@each_batch_layer
def test_a_block_computed_again_in_backward_counts_once(name: str) -> None:
    norm = LAYERS[name](3)
    twin = copy.deepcopy(norm)
    x = images(4, 3, 4, 4).float().requires_grad_()
    norm(x).square().sum().backward()
    checkpoint(twin, x, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close(twin.state_dict(), norm.state_dict())


# --- by name ----------------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert list_norms() == ["dbn", "iebn", "imagelayernorm", "imagelayernormplain", "none", "switchnorm"]


@pytest.mark.parametrize("name", [*list_norms(), "switch_norm", "SwitchNorm"])
@pytest.mark.parametrize("architecture", ["resnet20", "test_resnet"])
def test_networks_take_them_and_come_back_from_their_config(name: str, architecture: str, tmp_path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(architecture, norm_layer=name, num_classes=3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    x = torch.randn(4, 3, 32, 32)
    model(x).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(x), model.eval()(x), rtol=0, atol=0)


@each_batch_layer
def test_evaluation_can_be_scripted(name: str) -> None:
    norm, x = LAYERS[name](3).eval(), torch.randn(2, 3, 4, 4)
    with scripting():
        scripted = torch.jit.script(norm)
    torch.testing.assert_close(scripted(x), norm(x))


# --- LayerAct behind them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_layer_norm_without_affine_makes_la_silu_silu(eps: float) -> None:
    """Appendix D of LayerAct v3; exact but for the alpha and eps that are added to the variance."""
    x = images(5, 4, 6, 3)
    normal = ImageLayerNorm(4, eps=eps, affine=False)(x)
    torch.testing.assert_close(LASiLU(1e-12)(normal), F.silu(normal), rtol=2 * eps, atol=2 * eps)
    affine = randomized(ImageLayerNorm(4, eps=eps))(x)
    assert (LASiLU()(affine) - F.silu(affine)).abs().max() > 0.05
    assert (LASiLU()(x) - F.silu(x)).abs().max() > 0.05


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imagelayernormplain", "10 LayerAct .*, first act1: ImageLayerNorm .* LA-SiLU is SiLU"),
        ("imagelayernorm", "ImageLayerNorm normalises every sample"),
        ("switchnorm", "SwitchNorm2d spreads"),
        ("iebn", "IEBN2d spreads"),
    ],
)
def test_a_network_whose_norm_undoes_layer_act_warns(name: str, words: str) -> None:
    with pytest.warns(NormalizationWarning, match=words):
        model = timm.create_model("resnet20_lasilu", norm_layer=name)
    assert "layer1.0.act1" in norms_that_undo(model)
    assert "layer1.0.act2" not in norms_that_undo(model)  # reads a sum


@pytest.mark.parametrize(("architecture", "norm"), [("resnet20_lasilu", "dbn"), ("resnet20_silu", "switchnorm")])
def test_others_do_not(architecture: str, norm: str) -> None:
    assert norms_that_undo(timm.create_model(architecture, norm_layer=norm)) == {}
    sequential = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), LASiLU(), nn.LayerNorm(4), nn.Dropout(), LASiLU())
    assert list(norms_that_undo(sequential)) == ["5"]
