"""Changing the activations of a finished model: `swap_activations`, and the report of what it did and left alone.

Works on any network of torch modules (timm, torchvision, segmentation_models_pytorch, transformers).
"""

import difflib
import fnmatch
import inspect
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from torch import nn

from ..checkpoints.fingerprint import describe_activation
from ..checkpoints.save import FINGERPRINT_KEY, SWAP_MARK
from ..compat.timm import update_model_args
from ..compat.torch import HOOKS
from ..layers import NormalizedAct
from ..registry import ActivationFactory, activation_factory, with_alpha
from .dataflow import DataFlow
from .placement import add_buffer_norm, check_placement, choose_places, find_head, remove_affine
from .report import SwapEntry, SwapReport
from .sites import Selection, Site, Wanted, find_sites
from .traced_methods import MethodSource, UntraceableError, rewritten_class

__all__ = ["SwapEntry", "SwapReport", "swap_activations"]


class SwappedActivations:
    """Stands in the saved arguments of a model whose activations were swapped; that JSON cannot write it is its job.

    timm and segmentation_models_pytorch write a model's construction arguments into config.json and build from them
    when loading: the old activations would come back, silently. With this among them they refuse to save.
    """

    def __repr__(self) -> str:
        return "activations swapped: build an architecture that has them (act_layer=...) and load the weights to save"


def swap_activations(
    model: nn.Module,
    to: str | ActivationFactory,
    *,
    alpha: float | None = None,
    source: Wanted | Iterable[Wanted] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    placement: Literal["all", "normalized"] = "all",
    buffer_norm: bool = False,
    dry_run: bool = False,
) -> SwapReport:
    """Replace a model's activations, in place; everything else (weights, training mode, state-dict keys) stays.

    Activations are modules wherever they sit, attributes that hold a function (``self.activation = F.relu``), and
    function calls in a module's own methods (``F.relu(x)``, ``torch.relu``, ``x.relu()``, ``x.relu_()``), which
    torch.fx makes into calls of a child module ``functional_<name>``; a method that a trace cannot stand for (it
    branches on its input or on the training flag, say) is left alone and named in the report. Every place gets a
    module of its own, in the old one's training mode; one with parameters is put on the device and dtype of those
    nearby. A module that is called several times at one place is one place, except for a `NormalizedAct`, whose
    statistics need one for each call (``relu_1``, ``relu_2``, ...). ``inplace`` is kept where `to` takes it.
    The parameters of a replaced PReLU go away: give the optimizer the new ones.

    A swapped stock timm or SMP model refuses to be saved by its library, whose config would bring the old activations
    back: build with ``act_layer=``, or pick an architecture that has them.

    Args:
        model: Any network.
        to: Name of an activation (of this package's or timm's), or a class or callable that returns a module.
        alpha: Alpha of a LayerAct given by name; its own if None.
        source: What to replace: names, or classes (matched with isinstance), one or several. By default every hidden
            elementwise activation (ReLU, PReLU, SiLU, GELU, Hardswish, LayerAct, ...), and no gates (sigmoid,
            hardsigmoid, tanh, softmax) or activations of output heads.
        include: Shell patterns (fnmatch, ``*`` crosses dots) of the paths to replace; all by default.
        exclude: Patterns of the paths to leave alone.
        placement: ``"normalized"`` puts normalized activations where their paper does: not behind the addition of a
            residual block and not into gates; and a BatchNorm that only such an activation reads loses its affine
            parameters.
        buffer_norm: With that, put a BatchNorm without affine before the head, as the paper suggests where the last
            hidden activation is normalized and not followed by a BatchNorm.
        dry_run: Report without changing anything.

    Returns:
        What was swapped, and what was left alone and why.

    Raises:
        ValueError: An unknown name, a pattern that matches no activation, patterns that part two paths of one shared
            module, nothing to swap, or a placement that does not fit `to` or the head. The model is unchanged after
            any error.
        TypeError: `to` does not make modules.
    """
    if alpha is not None:
        if not isinstance(to, str):
            raise ValueError("alpha goes with the name of an activation; a class or callable has its own.")
        to = with_alpha(to, alpha)
    factory = activation_factory(to) if isinstance(to, str) else to
    normalized = isinstance(factory(), NormalizedAct)
    check_placement(placement, buffer_norm, normalized)
    flow = DataFlow(model)
    sites = list(find_sites(model, Selection(source), flow if normalized else None))
    _apply_patterns(sites, include, exclude)
    norms = choose_places(flow, sites) if placement == "normalized" else []
    head = find_head(model) if buffer_norm else None
    classes = _rewrite(sites)
    chosen = [site for site in sites if site.reason is None]
    if not chosen:
        raise ValueError(_nothing_to_swap(sites))
    made: dict[tuple[int, str], nn.Module] = {}
    for site in chosen:
        slot = (id(site.parent), site.name)
        site.new = made[slot] = made[slot] if slot in made else _make(factory, site, model)
    if not dry_run:
        _commit(model, sites, classes)
        for path in norms:
            remove_affine(model.get_submodule(path))
        if head is not None:
            add_buffer_norm(model.get_submodule(head))  # type: ignore[arg-type]
    shown = [(site, describe_activation(site.new) if site.new is not None else None) for site in sites]
    entries = tuple(SwapEntry(site.path, site.old, new, site.reason) for site, new in shown)
    return SwapReport(entries, tuple(norms), head)


def _apply_patterns(
    sites: list[Site], include: str | Iterable[str] | None, exclude: str | Iterable[str] | None
) -> None:
    """Give the sites that the patterns rule out their reason; refuse patterns without effect or without consistency."""
    included, excluded = [[p] if isinstance(p, str) else list(p or ()) for p in (include, exclude)]
    paths = [site.path for site in sites]
    for argument, patterns in (("include", included), ("exclude", excluded)):
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
                near = difflib.get_close_matches(pattern, paths, cutoff=0.3) or paths[:3]
                raise ValueError(f"{argument} pattern {pattern!r} matches no activation; there are {', '.join(near)}.")
    if include is not None and not included:
        raise ValueError("include is empty; leave it out to take every activation.")
    decided: dict[tuple[int, str], Site] = {}
    for site in sites:
        if site.reason is None and included and not any(fnmatch.fnmatchcase(site.path, p) for p in included):
            site.reason = "not included"
        if site.reason is None and (hit := [p for p in excluded if fnmatch.fnmatchcase(site.path, p)]):
            site.reason = f"excluded by {hit[0]!r}"
        other = decided.setdefault((id(site.parent), site.name), site)
        if (other.reason is None) != (site.reason is None):
            raise ValueError(f"{other.path} and {site.path} are one place in a shared module: take both or neither.")


def _rewrite(sites: list[Site]) -> dict[int, type[nn.Module]]:
    """Classes with rewritten methods, by id of the module; sites whose method cannot be rewritten get the reason."""
    by_method: dict[int, dict[str, Site]] = {}
    for site in sites:
        if site.method is not None and site.reason is None:
            by_method.setdefault(id(site.method), {})[site.name] = site
    sources: dict[int, tuple[nn.Module, list[MethodSource]]] = {}
    for group in by_method.values():
        first = next(iter(group.values()))
        assert first.method is not None
        try:
            first.method.replace({site.call: name for name, site in group.items() if site.call is not None})
            sources.setdefault(id(first.parent), (first.parent, []))[1].append(first.method.source())
        except UntraceableError as error:
            for site in (s for s in sites if s.method is first.method and s.reason is None):
                site.reason = f"could not be rewritten: {error}"
    return {
        key: rewritten_class(type(module), tuple(parts))  # type: ignore[arg-type]
        for key, (module, parts) in sources.items()
    }


def _nothing_to_swap(sites: list[Site]) -> str:
    counts = Counter((site.old.split("(")[0], site.reason) for site in sites)
    if not counts:
        return "Nothing to swap: the model has no activations that torch's, timm's or this package's types cover."
    found = "; ".join(f"{count} x {old} ({reason})" for (old, reason), count in counts.items())
    return f"Nothing to swap: the model has {found}. Name what to replace with source=, or widen include and exclude."


def _make(factory: ActivationFactory, site: Site, model: nn.Module) -> nn.Module:
    old = site.module
    inplace = bool(getattr(old, "inplace", False))
    try:
        takes_inplace = "inplace" in inspect.signature(factory).parameters
    except ValueError:  # a callable without a signature
        takes_inplace = False
    new = factory(inplace=inplace) if takes_inplace else factory()
    if not isinstance(new, nn.Module):
        raise TypeError(
            f"`to` must be an activation's name, class or factory of modules; it made {type(new).__name__}."
        )
    for holder in (old, site.parent, model):
        tensors = [*holder.parameters(), *holder.buffers()] if holder is not None else []
        reference = next((t for t in tensors if t.is_floating_point()), None)
        if reference is not None:
            new.to(reference.device, reference.dtype)
            break
    return new.train((old if old is not None else site.parent).training)


def _commit(model: nn.Module, sites: list[Site], classes: dict[int, type[nn.Module]]) -> None:
    called_still = {(id(site.parent), site.shared) for site in sites if site.reason is not None}
    for site in (site for site in sites if site.reason is None):
        parent = site.parent
        if site.module is not None and site.new is not None:
            _move_hooks(site.module, site.new)
        vars(parent).pop(site.name, None)
        parent._modules[site.name] = site.new
        if site.shared is not None and (id(parent), site.shared) not in called_still:
            parent._modules.pop(site.shared, None)
        if isinstance(parent, nn.TransformerDecoderLayer) and site.name == "activation":
            vars(parent)[site.name] = site.new  # its __setstate__ puts F.relu where a copied dict has no such entry
        if isinstance(parent, nn.TransformerEncoderLayer) and site.name == "activation":
            parent.activation_relu_or_gelu = 0  # else evaluation takes a fused path that runs the old one
        if id(parent) in classes:
            parent.__class__ = classes[id(parent)]
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):  # its nested tensors are for that fused path
            module.use_nested_tensor &= all(getattr(layer, "activation_relu_or_gelu", 1) for layer in module.layers)
    _refuse_library_saves(model)


def _move_hooks(old: nn.Module, new: nn.Module) -> None:
    new._is_full_backward_hook = old._is_full_backward_hook
    for name in HOOKS:
        mine, theirs = vars(new)[name], vars(old)[name]
        if mine and theirs:  # a lazy module has one of its own, which it removes by its handle
            mine.update(theirs)
        elif theirs:
            vars(new)[name] = theirs  # the dictionary itself, so that the handles of its hooks keep working


def _refuse_library_saves(model: nn.Module) -> None:
    """Mark the saved arguments of stock timm and segmentation_models_pytorch models; ours record their activations."""
    for module in model.modules():
        args = getattr(module, "_model_args", None)
        if isinstance(args, dict) and FINGERPRINT_KEY not in args:
            update_model_args(module, **{SWAP_MARK: SwappedActivations()})
        config = getattr(module, "_hub_mixin_config", None)
        if isinstance(config, dict):
            config[SWAP_MARK] = SwappedActivations()
