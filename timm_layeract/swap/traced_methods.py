"""Methods rewritten so that the activation functions they call become child modules.

A method is traced with torch.fx, with the children of its module as leaves. The traced code, with a child module in
place of each call, becomes a method of a subclass that the module is moved to, so that the module stays what it was:
class, children, state-dict keys, copies and pickles. A graph keeps neither branches nor side effects, so a method is
refused wherever its trace might not be the whole of it.
"""

import functools
import gc
import importlib
import inspect
import linecache
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from torch import fx, nn

from .audit import UntraceableError, audited
from .functional_calls import called_function

__all__ = ["ActivationCall", "FunctionalMethod", "MethodSource", "UntraceableError", "graph_of", "rewritten_class"]


# A rewritten method: its name, its source text, and the global names of that text as (name, "module" or "value", what).
MethodSource = tuple[str, str, tuple[tuple[str, str, Any], ...]]


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # a buffer updated by the method is not updated by tracing it

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


@dataclass(frozen=True)
class ActivationCall:
    """One call of an activation function, or of a child module, in a traced method.

    Attributes:
        node: The call in the graph.
        function: What is called.
        module: The child module, None for a function.
    """

    node: fx.Node
    function: str
    module: nn.Module | None = None

    @property
    def inplace(self) -> bool:
        """Whether the call overwrites its input."""
        if self.module is not None:
            return bool(getattr(self.module, "inplace", False))
        flags = [self.node.kwargs.get("inplace"), *self.node.args[1:]]
        return getattr(self.node.target, "__name__", str(self.node.target)).endswith("_") or any(
            flag is True for flag in flags
        )


class FunctionalMethod:
    """A method of a module as an fx graph in which activation calls can be replaced by child modules.

    Args:
        module: The module; tracing leaves it as it is.
        method: Name of the method.

    Raises:
        UntraceableError: The trace fails, or does not hold for every call of the method.
    """

    def __init__(self, module: nn.Module, method: str) -> None:
        self.method = method
        definition = inspect.getattr_static(type(module), method)
        if isinstance(module, fx.GraphModule):
            raise UntraceableError("it is a traced GraphModule; swap before tracing")
        if not isinstance(definition, FunctionType) or hasattr(definition, "__wrapped__") or method in vars(module):
            raise UntraceableError("it is decorated or replaced on the instance")
        frozen = audited(definition.__code__, module)
        graphs = []
        for training in (True, False):
            with _undisturbed(module):
                module.training = training
                graph, executed = _trace(module, method)
            graphs.append(graph)
            for code, owned in executed.items():
                frozen |= audited(code, module if owned else None)
        self.frozen = {name: getattr(module, name) for name in sorted(frozen - {"training"})}
        self.graph = graphs[0]
        if len({graph.python_code("self").src for graph in graphs}) > 1:
            raise UntraceableError("it differs between training and evaluation mode")
        if any(node.op == "get_attr" and not _has(module, str(node.target)) for node in self.graph.nodes):
            raise UntraceableError("it makes a tensor that a trace would turn into a constant")
        self.calls = [ActivationCall(node, name) for node in self.graph.nodes if (name := called_function(node))]

    def calls_of(self, name: str, module: nn.Module) -> list[ActivationCall]:
        """The calls of the child module of that name."""
        nodes = [node for node in self.graph.nodes if node.op == "call_module" and node.target == name]
        return [ActivationCall(node, name, module) for node in nodes]

    def replace(self, names: Mapping[ActivationCall, str]) -> None:
        """Put a call of the child module of that name in place of each activation call.

        Raises:
            UntraceableError: An in-place call whose effect is seen through another tensor only (a view).
        """
        for call, name in names.items():
            node = call.node
            source = node.args[0] if node.args else node.kwargs["input"]
            later = set(list(self.graph.nodes)[list(self.graph.nodes).index(node) + 1 :])
            with self.graph.inserting_after(node):
                new = self.graph.call_module(name, (source,))
            node.replace_all_uses_with(new)
            if call.inplace and isinstance(source, fx.Node):  # who reads the input later reads it activated
                source.replace_all_uses_with(new, later.__contains__)
            self.graph.erase_node(node)
            if call.inplace and not new.users:
                raise UntraceableError("an in-place call changes a tensor that is read under another name")

    def source(self) -> MethodSource:
        """The method as ``(name, source text, global names)``, all hashable and picklable."""
        code = self.graph.python_code("self")
        text = code.src.lstrip()
        names = [
            (name, "module", value.__name__) if isinstance(value, ModuleType) else (name, "value", value)
            for name, value in sorted(code.globals.items())
        ]
        if self.frozen:
            head, body = text.split("\n", 1)
            reads = ", ".join(f"self.{name}" for name in self.frozen)
            settings = ", ".join(f"{name}={value!r}" for name, value in self.frozen.items())
            message = f"{self.method} was traced by swap_activations with {settings}: set them before swapping."
            text = f"{head}\n    if ({reads},) != _traced_with:\n        raise RuntimeError({message!r})\n{body}"
            names.append(("_traced_with", "value", tuple(self.frozen.values())))
        return self.method, text, tuple(names)


def _has(module: nn.Module, path: str) -> bool:
    try:
        functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        return False
    return True


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    before = dict(vars(module))
    try:
        yield
    finally:
        vars(module).clear()
        vars(module).update(before)


def graph_of(module: nn.Module) -> fx.Graph:
    """The forward of a module as a graph with its children as leaves, for looking at: branches are those of today.

    Raises:
        UntraceableError: The trace fails.
    """
    try:
        with _undisturbed(module):
            return _Tracer().trace(module)
    except Exception as error:  # whatever a forward raises when it is handed proxies
        raise UntraceableError(_message(error)) from error


def _message(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from running finalizers, which a profiler takes for code of the method."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _trace(module: nn.Module, method: str) -> tuple[fx.Graph, dict[CodeType, bool]]:
    """Trace a method; return its graph, and the code objects outside torch that ran -> whether they are methods."""
    executed: dict[CodeType, bool] = {}
    foreign = {"torch", *sys.stdlib_module_names}

    def note(frame: FrameType, event: str, arg: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        made_by_collections = name.startswith("namedtuple_")
        if event == "call" and name.split(".")[0] not in foreign and name != __name__ and not made_by_collections:
            arguments = frame.f_code.co_varnames[:1]
            executed[frame.f_code] = bool(arguments) and frame.f_locals.get(arguments[0]) is module

    def run() -> fx.Graph:
        tracer = _Tracer()
        tracer.traced_func_name = method
        sys.setprofile(note)  # this thread's alone: a profiler that the caller runs is not disturbed
        return tracer.trace(module)

    try:
        with _no_collection(), ThreadPoolExecutor(1) as thread:
            graph = thread.submit(run).result()
    except Exception as error:  # whatever a forward raises when it is handed proxies
        raise UntraceableError(_message(error)) from error
    return graph, executed


class _Rewritten:
    """Base of the classes that carry rewritten methods; made anew from their source when copied or unpickled."""

    _layeract_base: type[nn.Module]
    _layeract_sources: tuple[MethodSource, ...]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restore, (self._layeract_base, self._layeract_sources), super().__reduce_ex__(2)[2]


def _restore(base: type[nn.Module], sources: tuple[MethodSource, ...]) -> nn.Module:
    kind = rewritten_class(base, sources)  # type: ignore[arg-type]
    return kind.__new__(kind)


@functools.lru_cache(maxsize=1024)
def rewritten_class(base: type[nn.Module], sources: tuple[MethodSource, ...]) -> type[nn.Module]:
    """Subclass of `base`, of the same name, with the methods of `sources` (`FunctionalMethod.source`) replaced."""
    if issubclass(base, _Rewritten):
        sources = (*(s for s in base._layeract_sources if s[0] not in {m for m, _, _ in sources}), *sources)
        base = base._layeract_base
    members: dict[str, object] = {"_layeract_base": base, "_layeract_sources": sources}
    for method, text, names in sources:
        namespace = {name: importlib.import_module(v) if kind == "module" else v for name, kind, v in names}
        filename = f"<{base.__qualname__}.{method} with activations swapped {abs(hash((text, names))):x}>"
        linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)  # for tracebacks and inspect
        exec(compile(text, filename, "exec"), namespace)
        members[method] = namespace["forward"]
    members |= {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (_Rewritten, base), members)
