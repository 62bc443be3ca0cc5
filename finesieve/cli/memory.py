"""Freed memory stays with the process."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_memory() -> bool:
    """Has glibc keep freed memory for the next step instead of giving it back; for the whole
    process.

    By default every tensor above some size is mapped anew, and its pages are cleared by the kernel
    one by one: a tenth of a training step on a CPU (`benchmarks/cpu_speed.py`).

    Returns:
        Whether it could be set: only where the C library is glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
