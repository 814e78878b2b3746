"""`make run` in a directory of its own, for tests of what its users see."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extproc.demo import loopback_ports

ROOT = Path(__file__).parents[1]


@contextmanager
def running_demo(directory: Path) -> Iterator[int]:
    """The demo, started in ``directory`` with the checkout's registry. Gives the port of its Envoy."""
    shutil.copytree(ROOT / "config", directory / "config")
    names = ("PORT", "ENVOY_ADMIN_PORT", "ADMIN_PORT")
    chosen = dict(zip(names, map(str, loopback_ports.free(3)), strict=True))
    command = [sys.executable, "-m", "extproc.demo"]
    with subprocess.Popen(
        command, cwd=directory, env=os.environ | chosen, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert any(line.startswith("ready ") for line in process.stdout)
            yield int(chosen["PORT"])
        finally:
            process.terminate()
            process.communicate(timeout=60)
