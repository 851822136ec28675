"""fuse(model): let a network run BatchNorm and LayerAct in one pass; unfuse(model): and back.

Fusing changes the class of a block, whose `forward` then hands neighbours to `layers.norm_act` together. The modules in
it stay where they are, so parameter names, checkpoints and activation fingerprints are the same either way, and what
can't be fused (another activation, a hook, an exported graph) runs as before. Each plain class has one fused class,
which `fuses` registers; those of our own architectures stand beside them in `models`.
"""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from timm.models import checkpoint_seq
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .errors import UserError
from .layers import LayerAct
from .layers.batch_norm_act import norm_act
from .layers.pristine import is_pristine

__all__ = ["Fused", "FusedSequential", "FusedStem", "fuse", "fuses", "shortcut", "skips", "unfuse"]

Model = TypeVar("Model", bound=nn.Module)
FusedClass = TypeVar("FusedClass", bound=type[nn.Module])

_FUSED: dict[type[nn.Module], type[nn.Module]] = {}


def fuse(model: Model, inference: bool = False) -> Model:
    """Run BatchNorm and the LayerAct behind it in one pass, wherever the model's blocks are known.

    Known are the blocks and stems of timm's ResNets and of ours, any `nn.Sequential` in which a LayerAct follows a
    BatchNorm2d, and, where segmentation_models_pytorch is imported, its convolutions and torchvision's ResNet blocks.
    The model is changed in place; its parameters, their names and what it computes stay the same, so a checkpoint fits
    before and after.

    Args:
        model: Any network.
        inference: Return a copy for inference instead, whose convolutions have absorbed their BatchNorms, whatever
            the activation. It has fewer parameters and is not for training, saving or unfusing.

    Returns:
        `model` itself, or the copy for inference.

    Raises:
        UserError: `inference` of a model in training mode.
    """
    if inference:
        if model.training:
            raise UserError("Folding BatchNorm for inference needs its running statistics in use: call model.eval().")
        model = deepcopy(model)
    for module in model.modules():
        fused = _FUSED.get(type(module))
        if fused and any(isinstance(child, LayerAct) for child in module.children()):
            module.__class__ = fused
    if inference:
        known = {*_FUSED, *_FUSED.values()}
        for module in list(model.modules()):
            if type(module) in known:
                _fold(module)
    return model


def unfuse(model: Model) -> Model:
    """Undo `fuse`, in place: every block runs its modules one by one again."""
    plain = {fused: plain for plain, fused in _FUSED.items()}
    for module in model.modules():
        if type(module) in plain:
            module.__class__ = plain[type(module)]
    return model


def fuses(plain: type[nn.Module]) -> Callable[[FusedClass], FusedClass]:
    """Class decorator: `fuse` turns modules of exactly the class `plain` into this one.

    It answers to the plain class's name, by which tools find the blocks of a network (what to shard as one, what to
    keep on one device); pickle goes by its qualified name.
    """

    def register(fused: FusedClass) -> FusedClass:
        _FUSED[plain] = fused
        fused.__name__ = plain.__name__
        return fused

    return register


def _fold(block: nn.Module) -> None:
    """Let each convolution absorb the BatchNorm defined right after it, of which an identity is left."""
    children = list(block.named_children())
    for (name, conv), (norm_name, norm) in pairwise(children):
        *before, last = conv if isinstance(conv, nn.Sequential) and len(conv) else [conv]
        if type(last) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None:
            folded = fuse_conv_bn_eval(last, norm)
            if before:
                conv.register_module(str(len(before)), folded)
            else:
                setattr(block, name, folded)
            setattr(block, norm_name, nn.Identity())


# Plain twin -> the fused module that torch.jit.script had it made for, kept alive as long: while it works, it knows
# modules by their address, which one that it let go of would leave to another.
_SCRIPTED: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


class Fused:
    """Mixin of fused classes: TorchScript compiles the plain one."""

    def __prepare_scriptable__(self) -> Any:
        twin: nn.Module = unfuse(deepcopy(self))  # type: ignore[type-var,assignment]
        _SCRIPTED[twin] = self
        return twin


@fuses(nn.Sequential)
class FusedSequential(Fused, nn.Sequential):
    """A Sequential whose neighbours (convolution,) BatchNorm, LayerAct run together."""

    def forward(self, x: Tensor) -> Tensor:
        modules, index = [None, *self, None], 1
        while index < len(modules) - 1:
            before, module, following = modules[index - 1 : index + 2]
            folded = type(before) is nn.Conv2d and type(module) is nn.Identity
            if isinstance(following, LayerAct) and (type(module) is nn.BatchNorm2d or folded):
                x = norm_act(x, module, following, source=before)
                index += 2
            else:
                x = module(x)
                index += 1
        return x


def shortcut(downsample: nn.Module | None, x: Tensor) -> tuple[Tensor, nn.Module | None]:
    """A block's shortcut, and its BatchNorm where that comes last and may wait for the kernel."""
    if downsample is None:
        return x, None
    if type(downsample) is not nn.Sequential or not len(downsample) or not _may_pass_by(downsample):
        return downsample(x), None
    *layers, norm = downsample
    for layer in layers:
        x = layer(x)
    return x, norm


def skips(module: nn.Module) -> bool:
    """Whether a module gives back what it gets, and need not be called."""
    return type(module) is nn.Identity and _may_pass_by(module)


def _may_pass_by(module: nn.Module) -> bool:
    """Whether nobody expects a call of `module`; a program that is compiled sees all modules."""
    return not torch.compiler.is_compiling() and is_pristine(module)


def _middle(block: Any, conv: nn.Module, x: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
    """Where a timm block may drop and blur: DropBlock between BatchNorm and activation, anti-aliasing behind."""
    x = conv(x)
    if skips(block.drop_block):
        return block.aa(norm_act(x, norm, act, source=conv))
    return block.aa(act(block.drop_block(norm(x))))


def _end(block: Any, conv: nn.Module, x: Tensor, norm: nn.Module, act: nn.Module, inputs: Tensor) -> Tensor:
    """The end of a timm block: BatchNorm, attention and stochastic depth if any, shortcut, activation."""
    x = conv(x)
    residual, residual_norm = shortcut(block.downsample, inputs)
    if block.se is None and block.drop_path is None:
        return norm_act(x, norm, act, residual, residual_norm, source=conv)
    x = norm(x)
    if block.se is not None:
        x = block.se(x)
    if block.drop_path is not None:
        x = block.drop_path(x)
    return act(x + (residual if residual_norm is None else residual_norm(residual)))


@fuses(BasicBlock)
class FusedBasicBlock(Fused, BasicBlock):
    """timm's `BasicBlock`, fused."""

    def forward(self, x: Tensor) -> Tensor:
        y = _middle(self, self.conv1, x, self.bn1, self.act1)
        return _end(self, self.conv2, y, self.bn2, self.act2, x)


@fuses(Bottleneck)
class FusedBottleneck(Fused, Bottleneck):
    """timm's `Bottleneck`, fused."""

    def forward(self, x: Tensor) -> Tensor:
        y = norm_act(self.conv1(x), self.bn1, self.act1, source=self.conv1)
        y = _middle(self, self.conv2, y, self.bn2, self.act2)
        return _end(self, self.conv3, y, self.bn3, self.act3, x)


class FusedStem(Fused, ResNet):
    """Mixin of a fused `ResNet`: its stem, as its blocks see to themselves."""

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.maxpool(norm_act(self.conv1(x), self.bn1, self.act1, source=self.conv1))
        stages = [self.layer1, self.layer2, self.layer3, self.layer4]
        if self.grad_checkpointing:
            return checkpoint_seq(stages, x, flatten=True)
        for stage in stages:
            x = stage(x)  # type: ignore[operator]
        return x


@fuses(ResNet)
class FusedResNet(FusedStem):
    """timm's `ResNet`, fused."""
