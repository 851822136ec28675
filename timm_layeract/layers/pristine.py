"""Whether a module may be passed by: what its call would give is computed without it, and nobody notices.

Fused blocks read the parameters of their modules, and call none. That is the same only while a call would run the
forward of the module's own class with nobody looking on, so that whatever replaces, wraps, observes or offloads a
module gets its call.
"""

from torch import nn

from ..compat.torch import is_hooked
from .layer_act import LAHardSiLU, LASiLU, LayerAct

__all__ = ["is_pristine"]

# Class that may be passed by -> its forward, and the names by which an instance would hide what is its class's.
_CLASSES = {
    kind: (kind.forward, frozenset(dir(kind)))
    for kind in (
        *(nn.BatchNorm2d, nn.SyncBatchNorm, nn.Conv2d, nn.Identity, nn.Sequential),
        *(LayerAct, LASiLU, LAHardSiLU),
    )
}
_call = nn.Module.__call__


def is_pristine(module: nn.Module) -> bool:
    """Whether a call of `module` is the forward of its class, which is one of those known here, and nothing else.

    It is not with a hook of any kind on it or on all modules, with an attribute of its own in place of a method
    (a replaced forward, a compiled call), nor where its class was given another forward. Parametrised and sharded
    modules are of other classes.
    """
    kind = type(module)
    if kind not in _CLASSES:
        return False
    forward, of_class = _CLASSES[kind]
    return (
        kind.forward is forward
        and kind.__call__ is _call
        and not is_hooked(module)
        and module.__dict__.keys().isdisjoint(of_class)
    )
