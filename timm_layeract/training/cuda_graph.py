"""A training step's forward and backward pass as a CUDA graph, replayed by one call.

Small networks, and small batches on a fast GPU, spend more time on starting kernels than on running them; a graph
starts all at once. The optimizer and the averaged weights follow outside of it, on the gradients that it leaves.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .recipe import Recipe

__all__ = ["StepGraphs", "check_capturable"]

WARM_UP = 3  # calls before a capture, in which libraries choose their kernels and allocate
Body = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def check_capturable(recipe: Recipe, device: torch.device, processes: int) -> None:
    """Refuse (UserError) a recipe whose steps cannot be captured here."""
    faults = {
        "needs an NVIDIA GPU": device.type != "cuda",
        "is for a single process": processes > 1,
        "takes a batch as a whole: set accumulate to 1": recipe.accumulate > 1,
        "is not for mixed_precision 'fp16', whose scale changes: give 'bf16' or 'no'": recipe.mixed_precision == "fp16",
        "is not for texts, whose lengths change": recipe.task == "text",
    }
    for fault, holds in faults.items():
        if holds:
            raise UserError(f"Recipe {recipe.name}: cuda_graph {fault}, or set cuda_graph to false.")


def capture(body: Callable[[], None]) -> Callable[[], None]:
    """A function that replays the kernels that `body` launches."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            body()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


@dataclass
class _Captured:
    """One graph, with the tensors that it reads and writes."""

    replay: Callable[[], None]
    inputs: Tensor
    targets: Tensor
    gradients: list[Tensor | None]
    found: tuple[Tensor, Tensor]


class StepGraphs:
    """Forward and backward passes as CUDA graphs, one for each shape of the inputs (recipes may train on several).

    Args:
        network: Whose parameters get gradients; its buffers are what they were after a capture.
        body: Computes sums and loss of inputs and targets, and the gradients.
    """

    def __init__(self, network: nn.Module, body: Body) -> None:
        self._network, self._body = network, body
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._graphs: dict[Any, _Captured] = {}

    def __call__(self, inputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        """Sums and loss, as `body` returns them; gradients are those of this batch alone.

        Raises:
            UserError: Targets are no tensor, or the network does what a graph cannot hold.
        """
        if not isinstance(targets, Tensor):
            raise UserError("cuda_graph is not for a network that is taught by another: set cuda_graph to false.")
        key = (inputs.shape, inputs.dtype, inputs.stride(), targets.shape, targets.dtype)
        if key not in self._graphs:
            self._graphs[key] = self._capture(inputs, targets)
        graph = self._graphs[key]
        graph.inputs.copy_(inputs)
        graph.targets.copy_(targets)
        graph.replay()
        for parameter, gradient in zip(self._parameters, graph.gradients, strict=True):
            parameter.grad = gradient
        sums, loss = graph.found  # overwritten by the next replay
        return sums.clone(), loss.clone()

    def _capture(self, inputs: Tensor, targets: Tensor) -> _Captured:
        """Capture the graph for this shape; network and random state are left unchanged."""
        inputs, targets = inputs.clone(), targets.clone()
        buffers = [buffer.clone() for buffer in self._network.buffers()]
        found: list[tuple[Tensor, Tensor]] = []

        def body() -> None:
            for parameter in self._parameters:
                parameter.grad = None  # so that each replay writes gradients anew
            found[:] = [self._body(inputs, targets)]

        with _kept_random_state(inputs.device):
            try:
                replay = capture(body)
            except RuntimeError as error:
                reason = str(error).strip().split("\n")[0]
                raise UserError(
                    f"This network's step cannot be captured as a CUDA graph ({reason}): set cuda_graph to false."
                ) from error
        gradients = [parameter.grad for parameter in self._parameters]
        _restore(self._network.buffers(), buffers)
        return _Captured(replay, inputs, targets, gradients, found[0])


def _restore(tensors: Iterable[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _kept_random_state(device: torch.device) -> Any:
    """What a capture draws is drawn again."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda")
