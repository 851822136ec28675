"""What a function does, by its source: whether a trace of it holds for every call.

Python compiles otherwise in every version, so that its bytecode is no ground to stand on; its grammar stays.
"""

import ast
import functools
import inspect
from types import CodeType
from typing import Any

from torch import nn

__all__ = ["UntraceableError", "audited"]

_PLAIN = (bool, int, float, str, type(None))
# Comprehensions that run as functions of their own, all but generators before Python 3.12 only.
_COMPREHENSIONS: dict[type[ast.AST], str] = {
    ast.ListComp: "<listcomp>",
    ast.SetComp: "<setcomp>",
    ast.DictComp: "<dictcomp>",
    ast.GeneratorExp: "<genexpr>",
}


class UntraceableError(Exception):
    """A method whose fx trace fails, or might not be the whole of the method; the message says why."""


def audited(code: CodeType, owner: nn.Module | None) -> set[str]:
    """Refuse code that a graph cannot stand for; return the plain attributes of `owner` that its conditions read.

    A condition may only read attributes of the module (which the rewritten method then guards) and loop variables.
    """
    audit = _Audit(owner, code.co_varnames[0] if owner is not None and code.co_varnames else None)
    for node in _body(code):
        audit.visit(node)
    return audit.frozen


def _body(code: CodeType) -> list[ast.AST]:
    """The statements of a function, or the expression of a lambda, as they stand in its source."""
    try:
        lines, _ = inspect.findsource(code)
    except OSError as error:
        raise UntraceableError(f"there is no source of {code.co_name}, by which to tell what it does") from error
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, *_COMPREHENSIONS)
    found = [
        node
        for node in ast.walk(_parsed("".join(lines)))
        if isinstance(node, kinds) and _first_line(node) == code.co_firstlineno and _name(node) == code.co_name
    ]
    if len(found) != 1:
        raise UntraceableError(f"the source of {code.co_name} was changed, or holds several on one line")
    node = found[0]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return list(node.body)
    return [node.body] if isinstance(node, ast.Lambda) else list(ast.iter_child_nodes(node))


@functools.lru_cache(maxsize=64)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _first_line(node: Any) -> int:
    lines: list[int] = [node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))]
    return min(lines)


def _name(node: ast.AST) -> str:
    return getattr(node, "name", None) or _COMPREHENSIONS.get(type(node), "<lambda>")


class _Audit(ast.NodeVisitor):
    """Reads what a function does: see `audited`."""

    def __init__(self, owner: nn.Module | None, own: str | None) -> None:
        self.owner, self.own = owner, own
        self.frozen: set[str] = set()
        self.loop_names: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:  # which is audited where it runs
        pass

    visit_AsyncFunctionDef = visit_Lambda = visit_ClassDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load):
            raise UntraceableError("it writes to an attribute or an element")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            raise UntraceableError("it writes to an attribute or an element")
        self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> None:
        raise UntraceableError("it writes to an attribute or an element")

    def visit_With(self, node: ast.With) -> None:
        raise UntraceableError("it uses a with statement")

    visit_AsyncWith = visit_With  # type: ignore[assignment]

    def visit_For(self, node: ast.For | ast.comprehension) -> None:
        self.loop_names |= {name.id for name in ast.walk(node.target) if isinstance(name, ast.Name)}
        for test in getattr(node, "ifs", ()):
            self._condition(test)
        self.generic_visit(node)

    visit_comprehension = visit_For

    def visit_If(self, node: ast.If | ast.IfExp | ast.While | ast.Assert) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    visit_IfExp = visit_While = visit_Assert = visit_If

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for value in node.values[:-1]:
            self._condition(value)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) > 1:  # a < b < c is two conditions
            self._condition(node)
        self.generic_visit(node)

    def visit_Match(self, node: ast.Match) -> None:
        self._refuse(node)

    def visit_Try(self, node: ast.Try) -> None:
        if any(handler.type is not None for handler in node.handlers):
            self._refuse(node)
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        """Refuse a condition that reads more than it may; note the attributes that it reads."""
        for node in ast.walk(test):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == self.own:
                self._attribute(node)
                continue
            foreign = isinstance(node, ast.Name) and node.id not in self.loop_names | {self.own}
            if foreign or isinstance(node, (ast.Call, ast.NamedExpr, ast.Await, ast.Yield)):
                self._refuse(node)

    def _attribute(self, node: ast.Attribute) -> None:
        owner = self.owner
        assert owner is not None
        if isinstance(inspect.getattr_static(owner, node.attr, owner), _PLAIN):
            self.frozen.add(node.attr)
        elif not any(node.attr in part for part in (owner._modules, owner._parameters, owner._buffers)):
            self._refuse(node)  # a property or an object, which may change unseen

    def _refuse(self, node: Any) -> None:
        raise UntraceableError(f"it branches on more than its own attributes (line {node.lineno})")
