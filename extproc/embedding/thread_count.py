"""How many threads the encoder may take where Envoy and the event loop need cores too."""

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
MOST = 4


def default_threads(cores: int) -> int:
    """Half of the cores, at least one, at most ``MOST``.

    The other half belongs to Envoy and the event loop, and a text of 16 tokens gets slower, not
    faster, from a second thread that must be woken (measured on two cores: 1.5 and 1.9 ms).
    """
    return max(1, min(MOST, cores // 2))


def allowed_cores(cpu_max: Path = CPU_MAX) -> int:
    """The cores this process may use: its affinity, cut to its cgroup's quota.

    A container limited to one CPU of a large node sees all of the node's cores; threads for all
    of them would spend the quota at once and then stand still for the rest of each period.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):  # no cgroup v2 here, so no quota to be seen
        return cores
    if quota == "max":
        return cores
    return min(cores, math.ceil(int(quota) / int(period)))
