"""The activations of a model: where each sits, whether it is asked for, and if not, why not. Used by `swap`."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from timm.layers import create_act
from torch import nn

from ..checkpoints.fingerprint import activation_types, describe_activation
from ..registry import activation_factory, list_activations
from .dataflow import DataFlow
from .functional_calls import called_functions, function_attributes, module_of
from .traced_methods import ActivationCall, FunctionalMethod, UntraceableError

__all__ = ["Selection", "Site", "Wanted", "find_sites", "is_gate"]

Wanted = str | type[nn.Module]

# Squash or normalise: gates, attention weights and outputs. GLU halves the channels; softplus keeps a value positive.
_GATES = {
    *("sigmoid", "hardsigmoid", "logsigmoid", "tanh", "hardtanh", "softplus", "sqrtsoftplus", "glu"),
    *("softmax", "softmax2d", "logsoftmax", "softmin", "linear", "laplace"),
}
_TABLES = (create_act._ACT_LAYER_DEFAULT, create_act._ACT_LAYER_ME)


@dataclass
class Site:
    """One activation found: `parent`'s child `name`, or the call that such a child is to replace.

    Attributes:
        shared: The child that this is one of several calls of; None elsewhere.
    """

    path: str
    parent: nn.Module
    name: str
    old: str
    reason: str | None = None
    module: nn.Module | None = None
    method: FunctionalMethod | None = None
    call: ActivationCall | None = None
    shared: str | None = None
    new: nn.Module | None = None


class Selection:
    """Which activations are asked for, as in `swap_activations`; see there for `source`.

    Attributes:
        types: Module types that count as activations here: those known, and those asked for.
    """

    def __init__(self, source: Wanted | Iterable[Wanted] | None) -> None:
        self._default = source is None
        self._classes: set[type[nn.Module]] = set()
        self._described: set[str] = set()  # ours, where a name says more than a class (alpha)
        self._known = known = _known_types()
        for name in [source] if isinstance(source, (str, type)) else list(source or ()):
            if isinstance(name, type):
                self._classes.add(name)
            elif name in list_activations():
                example = activation_factory(name)()
                self._described.add(describe_activation(example))
                known.add(type(example))
            else:
                named = {t for t in known if _plain_name(t.__name__) == _plain_name(name)}
                self._classes |= named or {type(activation_factory(name)())}
                self._classes |= {t for table in _TABLES if isinstance(t := table.get(name), type)}
        self.types = (*known, *self._classes)

    def reason(self, module: nn.Module, in_head: bool) -> str | None:
        """Why an activation is left alone; None where it is asked for."""
        if not self._default and describe_activation(module) in self._described:
            return None
        return "activation of the output head" if self._default and in_head else self.type_reason(type(module))

    def type_reason(self, kind: type[nn.Module]) -> str | None:
        """The same for the type of module that stands for a function."""
        if not self._default:
            return None if issubclass(kind, tuple(self._classes)) else "not in source"
        nearest = next((base for base in kind.__mro__ if base in self._known), kind)
        return "a gate or an output, not a hidden activation" if _plain_name(nearest.__name__) in _GATES else None


def is_gate(kind: type[nn.Module]) -> bool:
    """Whether that is a sigmoid, as at the end of squeeze-and-excitation."""
    return _plain_name(kind.__name__) in ("sigmoid", "hardsigmoid")


def _plain_name(class_name: str) -> str:
    """``GELUActivation`` -> ``gelu``, ``HardSwishMe`` -> ``hardswish``: one name for all spellings of a class."""
    return class_name.removesuffix("Activation").removesuffix("Me").replace("_", "").lower()


def _known_types() -> set[type[nn.Module]]:
    types = set(activation_types())
    theirs = "transformers.activations"  # where it is not imported, no model has them
    candidates = [t for t in vars(sys.modules.get(theirs, nn)).values() if isinstance(t, type)]
    return types | {t for t in candidates if issubclass(t, nn.Module) and t.__module__ == theirs}


def find_sites(model: nn.Module, selection: Selection, flow: DataFlow | None = None) -> Iterator[Site]:
    """Every activation of `model`, in the order of its modules: modules, function attributes, function calls.

    With `flow`, each call of a module that its parent calls several times is a site of its own.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    functional: dict[int, list[Site]] = {}
    methods: dict[tuple[int, str], FunctionalMethod] = {}
    done: set[str] = set()  # activations, whose own parts are not looked at, and output heads
    heads: set[str] = set()
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        if parent in done and path:
            done.add(path)
        elif isinstance(module, selection.types):
            done.add(path)
            in_head = parent in heads
            reason = selection.reason(module, in_head) if path else "the model itself: nothing holds it"
            site = Site(path or "(model)", modules[parent], name, describe_activation(module), reason, module)
            yield from [site] if flow is None or reason is not None else _by_call(site, flow, methods)
        else:
            if type(module).__name__ == "Activation" and type(module).__module__.startswith("segmentation_models"):
                heads.add(path)
            if id(module) not in functional:
                functional[id(module)] = list(_find_functions(module, selection, methods))
            for site in functional[id(module)]:
                yield replace(site, path=f"{path}.{site.name}" if path else site.name)


def _by_call(site: Site, flow: DataFlow, methods: dict[tuple[int, str], FunctionalMethod]) -> list[Site]:
    """The calls of a module that its parent calls several times, as sites of their own; else the site itself."""
    parent, module = site.parent, site.module
    names = [name for name, child in parent._modules.items() if child is module]
    if module is None or len(names) > 1 or isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return [site]
    try:
        if sum(node.op == "call_module" and node.target == site.name for node in flow.graph(parent).nodes) <= 1:
            return [site]
        method = _method(parent, "forward", methods)
    except UntraceableError as error:
        return [replace(site, reason=f"the calls in {type(parent).__name__}.forward could not be traced: {error}")]
    return [
        replace(site, path=f"{site.path}_{i}", name=f"{site.name}_{i}", method=method, call=call, shared=site.name)
        for i, call in enumerate(method.calls_of(site.name, module), start=1)
    ]


def _method(module: nn.Module, name: str, methods: dict[tuple[int, str], FunctionalMethod]) -> FunctionalMethod:
    """The traced method, the same one for all its calls, as it is rewritten once."""
    key = (id(module), name)
    if key not in methods:
        methods[key] = FunctionalMethod(module, name)
    return methods[key]


def _find_functions(
    module: nn.Module, selection: Selection, methods: dict[tuple[int, str], FunctionalMethod]
) -> Iterator[Site]:
    """Function attributes and function calls of one module, with paths relative to it."""
    for name, function in function_attributes(module).items():
        reason = selection.type_reason(module_of(function))
        yield Site(name, module, name, f"F.{function} as an attribute", reason)
    taken: set[str] = set()
    for method_name, functions in called_functions(module).items():
        where = f"{type(module).__name__}.{method_name}"
        wanted = sorted(f for f in functions if selection.type_reason(module_of(f)) is None)
        if not wanted:
            continue
        try:
            method = _method(module, method_name, methods)
        except UntraceableError as error:
            reason = f"functional call in {where} could not be traced: {error}"
            yield Site(method_name, module, method_name, f"{', '.join(wanted)} in {where}", reason)
            continue
        for call in method.calls:
            name = base = f"functional_{call.function}"
            while name in taken or hasattr(module, name):
                name = f"{base}_{int(name.removeprefix(base).lstrip('_') or 0) + 1}"
            taken.add(name)
            reason = selection.type_reason(module_of(call.function))
            if call.function == "prelu" and reason is None:
                reason = "takes its slope from a parameter that would be left behind"
            yield Site(name, module, name, f"{call.function} in {where}", reason, method=method, call=call)
