"""Activations called as functions (``F.relu(x)``, ``x.relu_()``): which there are, and which a module may call.

A method's bytecode says whether it may call one; `traced_methods` then traces it to be sure.
"""

import dis
import functools
import inspect
from collections.abc import Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

__all__ = ["called_function", "called_functions", "function_attributes", "module_of"]

_MODULE_OF: dict[str, type[nn.Module]] = {
    **dict(relu=nn.ReLU, relu6=nn.ReLU6, leaky_relu=nn.LeakyReLU, rrelu=nn.RReLU, prelu=nn.PReLU, elu=nn.ELU),
    **dict(selu=nn.SELU, celu=nn.CELU, gelu=nn.GELU, silu=nn.SiLU, mish=nn.Mish, hardswish=nn.Hardswish),
    **dict(softplus=nn.Softplus, softsign=nn.Softsign, hardtanh=nn.Hardtanh, tanh=nn.Tanh, sigmoid=nn.Sigmoid),
    **dict(hardsigmoid=nn.Hardsigmoid, logsigmoid=nn.LogSigmoid, softmax=nn.Softmax, log_softmax=nn.LogSoftmax),
}
_SPELLINGS = [(name + suffix, name) for name in _MODULE_OF for suffix in ("", "_")]
# What fx records as the target of a call_function, and of a call_method.
_FUNCTIONS: dict[Any, str] = {
    getattr(space, spelling): name for spelling, name in _SPELLINGS for space in (F, torch) if hasattr(space, spelling)
}
_METHODS = {spelling: name for spelling, name in _SPELLINGS if hasattr(torch.Tensor, spelling)}


def module_of(function: str) -> type[nn.Module]:
    """The module type that computes what ``F.<function>`` does."""
    return _MODULE_OF[function]


def function_attributes(module: nn.Module) -> dict[str, str]:
    """Attributes of `module` that hold an activation function, as in ``self.activation = F.relu``: name -> function."""
    found = {}
    for name, value in vars(module).items():
        function = value.func if isinstance(value, functools.partial) else value
        if callable(function) and not isinstance(function, nn.Module) and _is_known(function):
            found[name] = _FUNCTIONS[function]
    return found


def called_functions(module: nn.Module) -> dict[str, set[str]]:
    """Methods of `module` that may call activation functions, read from their bytecode: method name -> functions."""
    if isinstance(module, fx.GraphModule):
        calls = {name for node in module.graph.nodes if (name := called_function(node))}
        return {"forward": calls} if calls else {}
    return _called_by_class(type(module))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1024)
def _called_by_class(kind: type[nn.Module]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for cls in kind.__mro__:
        if cls.__module__.split(".")[0] == "torch":
            continue
        for name, value in vars(cls).items():  # with overridden methods, which super() may reach
            function = inspect.unwrap(value) if callable(value) and not name.startswith("__") else None
            if isinstance(function, FunctionType) and (calls := _scan(function.__code__, function.__globals__, set())):
                found.setdefault(name, set()).update(calls)
    return found


def _scan(code: CodeType, namespace: Mapping[str, Any], seen: set[CodeType]) -> set[str]:
    """Activation functions that `code`, its nested functions and the plain functions it names may call."""
    if code in seen:
        return set()
    seen.add(code)
    calls: set[str] = set()
    unknown, own = object(), object()  # any value; the module itself, whose attributes are no tensor's methods
    current: Any = unknown
    for ins in dis.get_instructions(code):
        if ins.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            current = namespace.get(ins.argval, unknown)
        elif ins.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            if current is unknown and ins.argval in _METHODS:
                calls.add(_METHODS[ins.argval])
            current = getattr(current, ins.argval, unknown) if isinstance(current, ModuleType) else unknown
        else:
            current = own if ins.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and ins.argval == "self" else unknown
        if _is_known(current):
            calls.add(_FUNCTIONS[current])
        elif isinstance(current, FunctionType) and current.__module__.split(".")[0] != "torch":
            calls |= _scan(current.__code__, current.__globals__, seen)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            calls |= _scan(constant, namespace, seen)
    return calls


def _is_known(function: Any) -> bool:
    try:
        return function in _FUNCTIONS
    except TypeError:  # unhashable
        return False


def called_function(node: fx.Node) -> str | None:
    """The activation function that a node of a graph calls, if it is one."""
    if node.op == "call_function":
        return _FUNCTIONS.get(node.target)
    return _METHODS.get(str(node.target)) if node.op == "call_method" else None
