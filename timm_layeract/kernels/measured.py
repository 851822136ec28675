"""What computes LayerAct on a GPU by default: the fastest by the measurements in one table.

``make gpu`` times all of them on the machine it runs on. What has not been timed is never the default, however much is
expected of it; a row of kernels that are no longer there says so, and stays until they are timed anew.
"""

from dataclasses import dataclass

__all__ = ["MEASURED", "ON_GPU", "Measured"]


@dataclass(frozen=True)
class Measured:
    """One road's LA-SiLU, forward + backward in eager mode, of 256x256x56x56 values, bfloat16, channels_last."""

    backend: str
    milliseconds: float
    card: str
    date: str
    torch: str
    note: str = ""


_H100 = {"card": "NVIDIA H100 80GB HBM3", "date": "2026-11-26", "torch": "2.11.0"}
MEASURED = (
    Measured("compiled", 1.16, **_H100, note="torch.compile of the composite; a copy takes 0.55"),
    Measured("triton", 2.32, **_H100, note="the kernels before their rewriting (up to 2899acc); today's are not timed"),
    Measured("composite", 5.61, **_H100, note="before it was recomputed in backward"),
)
ON_GPU = min(MEASURED, key=lambda row: row.milliseconds).backend
