"""Normalized activations as modules: state, fingerprint, names, swapping, compilation and export."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from torch import Tensor, nn

import timm_layeract
from tests.layers.test_normalized_act import batches, inputs
from tests.scripting import scripting
from timm_layeract import NormalizedAct
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError, activation_fingerprint, check_fingerprint
from timm_layeract.registry import activation_factory


def test_the_state_dict_is_complete() -> None:
    module = NormalizedAct(nn.SiLU)
    for batch in batches()[:3]:
        module(batch.float())
    nn.init.constant_(module.alpha, 0.5)
    assert list(module.state_dict()) == [
        *("alpha", "running_rho", "running_slope", "running_mean", "num_batches_tracked"),
    ]
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = NormalizedAct(nn.SiLU)
    loaded.load_state_dict(torch.load(file))
    x = inputs(5, 4, seed=7).float()
    torch.testing.assert_close(loaded(x), module(x), rtol=0, atol=0)  # training goes on alike
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin.eval()(x), module.eval()(x), rtol=0, atol=0)
        module.train()


def test_configuration_is_in_the_fingerprint_and_the_base_is_not_a_site_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(3, 3), NormalizedAct(nn.LeakyReLU), nn.ReLU())
    text = "NormalizedAct(centered=True, momentum=0.1, lower=0.2, upper=5, base=LeakyReLU(negative_slope=0.01))"
    assert activation_fingerprint(model) == {"1": text, "2": "ReLU()"}
    assert activation_fingerprint(model[1]) == {"": text}
    for kwargs in (dict(centered=False), dict(momentum=0.2), dict(lower=0.1), dict(upper=3.5)):
        other = nn.Sequential(nn.Linear(3, 3), NormalizedAct(nn.LeakyReLU, **kwargs), nn.ReLU())
        with pytest.raises(ActivationMismatchError, match=f"{next(iter(kwargs))}={next(iter(kwargs.values()))}"):
            check_fingerprint(activation_fingerprint(model), other, "x")


@pytest.mark.parametrize(
    ("name", "base", "centered"),
    [
        ("nrelu", nn.ReLU, True),
        ("nlrelu", nn.LeakyReLU, True),
        ("nswish", nn.SiLU, True),
        ("nrelu_uncentered", nn.ReLU, False),
        ("nlrelu_uncentered", nn.LeakyReLU, False),
        ("nswish_uncentered", nn.SiLU, False),
    ],
)
def test_names(name: str, base: type[nn.Module], centered: bool) -> None:
    one, other = activation_factory(name)(inplace=True), activation_factory(name)()
    assert type(one.base) is base
    assert one.base is not other.base
    assert one.centered == centered
    x = inputs(4, 4).float()
    before = x.clone()
    one(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_timm_takes_the_name_with_one_module_a_site() -> None:
    model = timm.create_model("test_resnet", act_layer="nswish", num_classes=3)
    sites = [module for module in model.modules() if isinstance(module, NormalizedAct)]
    assert len(sites) == len(activation_fingerprint(model))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(site.num_batches_tracked == 1 and site.alpha.grad is not None for site in sites)


def test_swapping_a_module_that_several_places_share_makes_one_each() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    timm_layeract.swap_activations(model, "nrelu")
    assert model[1] is not model[3]
    assert model[1].alpha is not model[3].alpha


@pytest.mark.parametrize("export", ["script", "compile", "fx"])
def test_evaluation_survives_exports(export: str) -> None:
    module = NormalizedAct(nn.SiLU)
    module(inputs(16, 4).float())
    x = inputs(5, 4, seed=3).float()
    expected = module.eval()(x)
    if export == "script":
        with scripting():
            exported: Callable[[Tensor], Tensor] = torch.jit.script(module)
    elif export == "compile":
        exported = torch.compile(module, backend="eager", fullgraph=True)
    else:
        exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), expected)


@pytest.mark.skipif(not hasattr(torch, "accelerator"), reason="torch before 2.6 compiles no singledispatch")
def test_training_compiles_whole() -> None:
    module = NormalizedAct(nn.SiLU)
    twin = copy.deepcopy(module)
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    for batch in batches()[:3]:
        torch.testing.assert_close(compiled(batch.float()), module(batch.float()))
    torch.testing.assert_close(twin.state_dict(), module.state_dict())


def test_public_name() -> None:
    assert "NormalizedAct" in timm_layeract.__all__
    assert partial(NormalizedAct, nn.ReLU)().alpha.shape == (1,)
