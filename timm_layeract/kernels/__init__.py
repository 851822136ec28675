"""LayerAct and BatchNorm + LayerAct as fused kernels: in C for the CPU, in Triton for the GPU.

`dispatch` decides which implementation runs; `layer_act` and `batch_norm` are the autograd functions, and hold what the
implementations share; `cpu` and `triton` are those, with the same functions each, and `compiled` has LayerAct's through
torch.compile. `measured` says which of them is the default on a GPU. All of it is checked against `composite`, which
runs wherever no kernel can.
"""

from .dispatch import backend_for, use_backend

__all__ = ["backend_for", "use_backend"]
