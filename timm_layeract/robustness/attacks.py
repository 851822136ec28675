"""Adversarial images: the fast gradient sign method and projected gradient descent, in the L-infinity norm."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fgsm", "pgd"]


def pgd(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int = 10,
    step_size: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Climb the loss within a box around each image (Madry et al. 2018).

    Args:
        network: Images in [0, 1] to logits; its mode and its parameters' gradients stay as they are.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: int64 ``(N,)``.
        epsilon: Half the side of the box; 8/255 is usual on CIFAR-10.
        steps: Steps of gradient ascent.
        step_size: Size of a step; ``2.5 epsilon / steps`` if None, which reaches any point of the box.
        start: Where in the box to start, in [0, 1], ``(N, C, H, W)``; at the image if None.

    Returns:
        ``(N, C, H, W)`` in [0, 1], at most `epsilon` from `images` in every value.
    """
    size = 2.5 * epsilon / steps if step_size is None else step_size
    low, high = (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1)
    attacked = images
    if start is not None:
        attacked = low + (high - low) * start.to(images)
    for _ in range(steps):
        with torch.enable_grad():
            attacked = attacked.detach().requires_grad_()
            loss = F.cross_entropy(network(attacked), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, attacked)
        attacked = torch.minimum(torch.maximum(attacked.detach() + size * gradient.sign(), low), high)
    return attacked


def fgsm(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """One step of `epsilon` along the sign of the gradient (Goodfellow et al. 2015); arguments as `pgd`."""
    return pgd(network, images, labels, epsilon, steps=1, step_size=epsilon)
