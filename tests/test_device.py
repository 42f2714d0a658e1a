"""What a run asks of its machine."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from lib.device import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
torch.zeros(64 * 2**18)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.zeros(64 * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept_for_the_next_tensor():
    faults = {
        name: int(subprocess.check_output([sys.executable, "-c", FAULTS, name]))
        for name in ("kept", "mapped anew")
    }
    assert faults["kept"] < 0.1 * faults["mapped anew"], faults
