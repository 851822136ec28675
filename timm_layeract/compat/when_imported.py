"""Running something once another package has been imported, so that importing this one does not need the other."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

__all__ = ["when_imported"]


def when_imported(package: str, then: Callable[[], object]) -> None:
    """Call `then` after a package has been imported: at once if it has been, else when somebody imports it."""
    if sys.modules.get(package) is not None:  # None forbids its import
        then()
    else:
        sys.meta_path.insert(0, _Finder(package, then))


class _Finder(MetaPathFinder):
    """Waits for one import; everything else is left to the finders behind."""

    def __init__(self, package: str, then: Callable[[], object]) -> None:
        self.package = package
        self.then = then
        self.asking = False  # the finders behind, for which this one does not answer

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.package or self.asking:
            return None
        self.asking = True
        try:
            spec = find_spec(fullname)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    """Loads by the package's own loader, to which the module belongs afterwards, then calls."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self.loader = loader
        self.finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        sys.meta_path.remove(self.finder)
        self.finder.then()
