"""Watching the activations of any network: what each reads and gives, by forward hooks on a copy."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy

from torch import Tensor, nn

from .checkpoints.fingerprint import activation_types
from .errors import UserError
from .fuse import unfuse

__all__ = ["Watch", "watched_copy"]

Watch = Callable[[str, nn.Module, Tensor, Tensor], None]


def watched_copy(network: nn.Module, watch: Watch) -> nn.Module:
    """A copy of a network that calls ``watch(path, activation, input, output)`` whenever an activation has run.

    The copy is unfused, as fused modules do not call their activation, and no activation overwrites its input. A module
    that runs again in the same pass has its number after its path.

    Raises:
        UserError: The network has no activation modules.
    """
    copied = unfuse(deepcopy(network))
    types = activation_types()
    sites = {path: module for path, module in copied.named_modules() if isinstance(module, types)}
    if not sites:
        raise UserError(f"{type(network).__name__} has no activation modules; functions cannot be watched.")
    calls: Counter[str] = Counter()
    copied.register_forward_pre_hook(lambda *_: calls.clear())
    for path, module in sites.items():

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, path: str = path) -> None:
            calls[path] += 1
            numbered = path if calls[path] == 1 else f"{path} #{calls[path]}"
            watch(numbered.removeprefix("network."), module, inputs[0], output)

        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
        module.register_forward_hook(hook)
    return copied
