"""That freed memory stays with the process, seen from outside: in a process of its own, by what the system says."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import torch
from timm_layeract.allocator import reuse_freed_memory

def resident():  # in MiB
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024

if sys.argv[1] == "reuse":
    reuse_freed_memory()
before = resident()
tensor = torch.ones(100 * 2**18)  # 100 MiB
during = resident()
del tensor
print(during - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
@pytest.mark.parametrize("reuse", [True, False])
def test_freed_memory_stays(reuse):
    command = [sys.executable, "-c", PROGRAM, "reuse" if reuse else "default"]
    during, after = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert during >= 95
    assert (after >= 95) is reuse
