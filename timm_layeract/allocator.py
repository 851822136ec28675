"""The C library's memory allocator, told to keep what tensors free."""

import ctypes
import platform

__all__ = ["reuse_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST = 2**31 - 1


def reuse_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors instead of giving it back to the system.

    A training step allocates the same large tensors again and again. Given back, each costs a page fault for every
    4 KiB at the next step, which can take longer than the arithmetic on it. Concerns glibc (Linux); elsewhere nothing
    happens.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
