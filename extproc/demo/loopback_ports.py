"""TCP ports on loopback: asked for in the environment, checked before anything starts, or chosen."""

import errno
import os
import socket
from collections.abc import Iterable, Mapping
from itertools import count, islice

import msgspec

from extproc.errors import OperatorError

HOST = "127.0.0.1"

# Between a look at a port and its use another may take it. So these are none that systems give to
# outgoing connections, and each process walks a stretch of its own, never coming to one twice.
_LOWEST, _COUNT = 10_240, 22_000
_OURS = (_LOWEST + (os.getpid() * 251 + number) % _COUNT for number in count())


class Claim(msgspec.Struct, frozen=True):
    """A port that must be free, and what an operator changes when it is not."""

    port: int
    owner: str  # who will listen there
    remedy: str  # how to choose another port


def from_environment(environment: Mapping[str, str], variable: str, default: int) -> int:
    """The port that ``variable`` names, or ``default``. Raises OperatorError when it is no port."""
    text = environment.get(variable, "") or str(default)
    port = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= port <= 65535:
        raise OperatorError(f"{variable}={text} is no port (expected a number from 1 to 65535)")
    return port


def check(claims: Iterable[Claim]) -> None:
    """Raises OperatorError naming every claimed port that two claim or that cannot be bound."""
    problems: list[str] = []
    owners: dict[int, Claim] = {}
    for claim in claims:
        first = owners.setdefault(claim.port, claim)
        if first is not claim:
            problems.append(
                f"port {claim.port} is wanted for {first.owner} and {claim.owner}: {claim.remedy}"
            )
        elif problem := _problem(claim.port):
            problems.append(f"port {claim.port} for {claim.owner} {problem}: {claim.remedy}")
    if problems:
        raise OperatorError("\n".join(problems))


def free(count: int) -> list[int]:
    """Distinct ports that were free when asked, and that this process has not been given before."""
    return list(islice((port for port in _OURS if not _problem(port)), count))


def _problem(port: int) -> str:
    with socket.socket() as trial:
        # Past connections in TIME_WAIT do not count as taken; a listener does. Envoy itself would
        # not notice one: it binds with SO_REUSEPORT and would share the port with another Envoy.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            return "is taken" if error.errno == errno.EADDRINUSE else f"cannot be bound ({error.strerror})"
    return ""
