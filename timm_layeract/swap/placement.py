"""Where normalized activations may go, and what changes around them (Yuan & Zhu, sections 3.2 and 3.3).

Not behind the addition of a residual block, since scaling there lets the variance grow from block to block; a BatchNorm
right in front loses its affine; a BatchNorm before the head may take up the variance that training gives the output.
"""

from collections import Counter
from collections.abc import Iterable

from torch import Tensor, nn

from ..compat.torch import BatchNorm
from ..errors import UserError
from .dataflow import DataFlow, Producer
from .sites import Site, is_gate
from .traced_methods import UntraceableError

__all__ = ["BufferedLinear", "add_buffer_norm", "check_placement", "choose_places", "find_head", "remove_affine"]


class BufferedLinear(nn.Linear):
    """A Linear that normalises its input over the batch first, by `norm`.

    Without affine parameters, which its own weights make superfluous. Shape: as `torch.nn.Linear`.
    """

    norm: nn.BatchNorm1d

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x.reshape(-1, self.in_features)).view_as(x))


def check_placement(placement: str, buffer_norm: bool, normalized: bool) -> None:
    """Refuse (UserError) settings of `swap_activations` that do not fit an activation that is `normalized` or not."""
    if placement not in ("all", "normalized"):
        raise UserError(f"placement must be 'all' or 'normalized', got {placement!r}.")
    if placement == "normalized" and not normalized:
        raise UserError("placement='normalized' is for normalized activations (nrelu, nswish, NormalizedAct).")
    if buffer_norm and placement != "normalized":
        raise UserError("buffer_norm belongs to placement='normalized': give both or neither.")


def choose_places(flow: DataFlow, sites: Iterable[Site]) -> list[str]:
    """Give the sites where a normalized activation must not go their reason; return the BatchNorms before the others.

    Args:
        flow: The network's.
        sites: Its activations; those that have a reason already are left out.

    Returns:
        Paths of the BatchNorms with affine parameters whose only reader is a site that stays.
    """
    paths = Counter(map(id, flow.modules.values()))
    slots: dict[tuple[int, str], list[Site]] = {}
    for site in sites:
        if site.reason is None:
            slots.setdefault((id(site.parent), site.name), []).append(site)
    norms = []
    for group in slots.values():
        reason, found = _judge(flow, group)
        for site in group:
            site.reason = reason
        if reason is None:
            norms += [path for path in found if paths[id(flow.modules[path])] == 1]
    return norms


def _judge(flow: DataFlow, group: list[Site]) -> tuple[str | None, list[str]]:
    """Why a normalized activation must not take this place, under all of its paths, and the BatchNorm before it."""
    first = group[0]
    if any(is_gate(type(child)) for child in first.parent.children()):
        return "computes a gate", []
    if isinstance(first.parent, BatchNorm):
        return None, [first.path.rpartition(".")[0]] if first.parent.affine else []  # timm's BatchNormAct2d
    try:
        read = [producer for site in group for producer in _producers(flow, site)]
    except UntraceableError as error:
        return f"what it reads could not be traced: {error}", []
    if any(producer.addition for producer in read):
        return "follows a residual addition", []
    if len(read) != 1 or read[0].path is None or not read[0].only_reader:
        return None, []
    norm = flow.modules[read[0].path]
    return None, [read[0].path] if isinstance(norm, BatchNorm) and norm.affine else []


def _producers(flow: DataFlow, site: Site) -> list[Producer]:
    if site.call is None:
        return flow.producers(site.path)
    return flow.producers_of_call(site.path.rpartition(".")[0], site.call.node)


def remove_affine(norm: nn.Module) -> None:
    """Take the gain and bias of a BatchNorm away, in place."""
    assert isinstance(norm, BatchNorm)
    norm.affine = False
    norm.register_parameter("weight", None)
    norm.register_parameter("bias", None)


def find_head(model: nn.Module) -> str:
    """Path of the layer that makes the logits: timm's classifier, else the last Linear.

    Raises:
        UserError: There is none, or it is no plain Linear.
    """
    linear: list[str]
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is not None:
        linear = [path for path, module in model.named_modules() if module is get_classifier()]
    else:
        linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not linear or type(model.get_submodule(linear[0])) is not nn.Linear:
        raise UserError("buffer_norm needs a head that is one nn.Linear; this model has none: leave it out.")
    return linear[0]


def add_buffer_norm(head: nn.Linear) -> None:
    """Put a BatchNorm before the head, in place; its own parameters keep their names."""
    norm = nn.BatchNorm1d(head.in_features, affine=False, device=head.weight.device, dtype=head.weight.dtype)
    head.norm = norm.train(head.training)
    head.__class__ = BufferedLinear
