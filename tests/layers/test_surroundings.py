"""Networks keep their activations and logits in whatever wraps, converts, traces or looks for them."""

from typing import Any

import pytest
import timm
import torch
from accelerate import infer_auto_device_map
from accelerate.utils import FullyShardedDataParallelPlugin, compute_module_sizes
from torch import fx, nn
from torch.distributed import fsdp

import timm_layeract
from scripts.surroundings_table import EXACT, PAGE, ROUNDED, render
from tests.surroundings import CASES, outcome, yours
from timm_layeract.errors import UserError
from timm_layeract.kernels import cpu
from timm_layeract.layers import LayerAct, UnbiasedLayerAct


@pytest.mark.parametrize("what", CASES)
def test_a_network_of_somebody_s_own_computes_the_same(what: str) -> None:
    if "FSDP2" in what and not hasattr(fsdp, "fully_shard"):
        pytest.skip("FSDP2 is public since torch 2.6")
    came = outcome(yours, CASES[what])
    assert came.refused or came.error < (ROUNDED if "bfloat16" in what else EXACT)


@pytest.mark.slow
@pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")
def test_the_page_says_what_comes_of_a_registered_network() -> None:
    page = render()
    assert "OTHERS" not in page
    assert PAGE.read_text() == page, "run python scripts/surroundings_table.py"


def test_converted_norms_are_synchronized_and_frozen() -> None:
    """Not only harmless: they do what they are called for."""
    network = nn.SyncBatchNorm.convert_sync_batchnorm(yours())
    assert type(network.norm1.norm) is nn.SyncBatchNorm
    frozen = timm.utils.model.freeze_batch_norm_2d(yours()).train()
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(frozen(x), frozen.eval()(x))


def _wraps(policy: Any, module: nn.Module) -> bool:
    return policy(module=module, recurse=False, nonwrapped_numel=0)


@pytest.mark.parametrize(("name", "block"), [("resnet50_lasilu", "Bottleneck"), ("resnet18_lasilu", "BasicBlock")])
def test_blocks_answer_to_the_stock_name(name: str, block: str) -> None:
    """By which accelerate looks for what to shard as one, and what to keep on one device."""
    found = []
    for each in (name, name.removesuffix("_lasilu")):
        model = timm.create_model(each)
        plugin = FullyShardedDataParallelPlugin(
            auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=[block]
        )
        plugin.set_auto_wrap_policy(model)
        found.append([path for path, module in model.named_modules() if _wraps(plugin.auto_wrap_policy, module)])
        sizes = compute_module_sizes(model)
        memory = {"cpu": sizes[""] // 3, "disk": sizes[""]}
        found[-1].append(sorted(infer_auto_device_map(model, memory, no_split_module_classes=[block])))
    assert found[0] == found[1]
    assert len(found[0]) > 8


@pytest.mark.parametrize("name", timm_layeract.list_activations())
def test_every_activation_is_traced_and_scripted_or_says_why_not(name: str) -> None:
    model = timm.create_model("resnet20", act_layer=name)
    x = torch.randn(2, 3, 17, 15)
    model.train()(x)  # what is lazy finds its size
    model.eval()
    expected = model(x)
    torch.testing.assert_close(fx.symbolic_trace(model)(x), expected, rtol=1e-4, atol=1e-5)
    if any(type(module) in (LayerAct, UnbiasedLayerAct) for module in model.modules()):
        with pytest.raises(UserError, match=r"use torch\.export"):
            torch.jit.script(model)
    else:
        torch.testing.assert_close(torch.jit.script(model)(x), expected, rtol=1e-4, atol=1e-5)
