"""What a module reads: the module, or the addition, that a call's input comes from.

A network is followed forward by forward, each traced with its children as leaves, so one method that cannot be traced
hides no more than itself.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from timm.layers import DropBlock2d, DropPath
from torch import fx, nn

from ..compat.torch import BatchNorm, Dropout
from .traced_methods import UntraceableError, graph_of

__all__ = ["DataFlow", "Producer"]

_TRANSPARENT = (nn.Identity, Dropout, DropPath, DropBlock2d)
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass(frozen=True)
class Producer:
    """Where an input comes from, dropout and identities looked through.

    Attributes:
        path: Path of the module whose output it is; None for the model's own input and for a function's result.
        addition: It is the sum of two tensors.
        only_reader: Nothing else reads that output.
    """

    path: str | None = None
    addition: bool = False
    only_reader: bool = True


@dataclass(frozen=True)
class _Call:
    """A node in the forward of the module at `owner`, which was entered by `outer` (None: by any call of it)."""

    owner: str
    node: fx.Node
    outer: "_Call | None" = None


class DataFlow:
    """Follows the data through a model; traces each module once, when it is asked for.

    Args:
        model: Any network; it is left as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self._graphs: dict[int, fx.Graph] = {}

    def producers(self, path: str) -> list[Producer]:
        """What the calls of the module at `path` read, one for each way that leads there.

        Raises:
            UntraceableError: A forward on the way cannot be traced.
        """
        return [each for call in self._calls(path) for each in self._argument(call, 0, True)]

    def producers_of_call(self, owner: str, node: fx.Node) -> list[Producer]:
        """The same for one call, a node in a graph of the module at `owner`."""
        return list(self._argument(_Call(owner, node), 0, True))

    def graph(self, module: nn.Module) -> fx.Graph:
        """The forward of a module of the model, its children as leaves.

        Raises:
            UntraceableError: It cannot be traced.
        """
        if id(module) not in self._graphs:
            self._graphs[id(module)] = graph_of(module)
        return self._graphs[id(module)]

    def _calls(self, path: str) -> list[_Call]:
        """Where the module at `path` is called: in the nearest module around it whose forward does."""
        owner, name = path, ""
        while owner:
            owner, _, last = owner.rpartition(".")
            name = f"{last}.{name}" if name else last
            module = self.modules[owner]
            if isinstance(module, nn.ModuleList | nn.ModuleDict):
                continue
            nodes = [node for node in self.graph(module).nodes if node.op == "call_module"]
            if isinstance(module, nn.Sequential) and len(nodes) == len(module):
                # By position, as a trace gives a module that stands at two places the name of the first.
                return [_Call(owner, nodes[list(module._modules).index(name)])] if name in module._modules else []
            if hits := [_Call(owner, node) for node in nodes if node.target == name]:
                return hits
        return []

    def _argument(self, call: _Call, index: int, alone: bool) -> Iterator[Producer]:
        """Producers of the argument at that position of a call."""
        values = [*call.node.args, *call.node.kwargs.values()]
        value = values[index] if index < len(values) else None
        if isinstance(value, fx.Node):
            yield from self._value(_Call(call.owner, value, call.outer), alone)
        else:
            yield Producer()

    def _value(self, at: _Call, alone: bool) -> Iterator[Producer]:
        """Producers of the value of a node."""
        node = at.node
        alone = alone and len(node.users) == 1
        if node.op == "placeholder":
            index = [each for each in node.graph.nodes if each.op == "placeholder"].index(node)
            calls = self._calls(at.owner) if at.outer is None else [at.outer]
            for call in calls:
                yield from self._argument(call, index, alone)
            if not calls:
                yield Producer()
        elif node.op == "call_module":
            yield from self._output(at, alone)
        else:
            summed = node.target in _ADDITIONS and len(node.all_input_nodes) == 2
            yield Producer(addition=summed, only_reader=alone)

    def _output(self, call: _Call, alone: bool) -> Iterator[Producer]:
        """Producers of the output of the module that is called there."""
        path = f"{call.owner}.{call.node.target}" if call.owner else str(call.node.target)
        module = self.modules[path]
        if isinstance(module, _TRANSPARENT):
            yield from self._argument(call, 0, alone)
        elif not any(True for _ in module.children()) or isinstance(module, BatchNorm):
            yield Producer(path, only_reader=alone)
        else:
            result = next(each for each in self.graph(module).nodes if each.op == "output").args[0]
            if not isinstance(result, fx.Node):
                raise UntraceableError(f"{type(module).__name__} returns more than one tensor")
            yield from self._value(_Call(path, result, call), alone)
