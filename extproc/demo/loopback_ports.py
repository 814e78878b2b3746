"""TCP ports on loopback: read from the environment, checked before anything starts, or free ones."""

import errno
import os
import socket
from collections.abc import Iterable, Mapping
from itertools import count, islice

import msgspec

from extproc.errors import OperatorError

HOST = "127.0.0.1"

# Another process may take a port between its check and its use. So these are not ports that systems use for
# outgoing connections, and each process uses its own sequence of ports, each port once.
_LOWEST, _COUNT = 10_240, 22_000
_OURS = (_LOWEST + (os.getpid() * 251 + number) % _COUNT for number in count())


class Claim(msgspec.Struct, frozen=True):
    """A port that must be free, and what an operator changes when it is not."""

    port: int
    owner: str  # what will listen there
    remedy: str  # how to choose another port


def from_environment(environment: Mapping[str, str], variable: str, default: int) -> int:
    """The port in ``variable``, or ``default``. Raises OperatorError if it is not a port."""
    text = environment.get(variable, "") or str(default)
    port = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= port <= 65535:
        raise OperatorError(f"{variable}={text} is not a port (expected a number from 1 to 65535)")
    return port


def check(claims: Iterable[Claim]) -> None:
    """Raises OperatorError with every port that is claimed twice or cannot be bound."""
    problems: list[str] = []
    owners: dict[int, Claim] = {}
    for claim in claims:
        first = owners.setdefault(claim.port, claim)
        if first is not claim:
            problems.append(f"port {claim.port} is set for {first.owner} and {claim.owner}: {claim.remedy}")
        elif problem := _problem(claim.port):
            problems.append(f"port {claim.port} for {claim.owner} {problem}: {claim.remedy}")
    if problems:
        raise OperatorError("\n".join(problems))


def free(count: int) -> list[int]:
    """Distinct ports that are free now, and that this process did not get before."""
    return list(islice((port for port in _OURS if not _problem(port)), count))


def _problem(port: int) -> str:
    with socket.socket() as trial:
        # A port with old connections in TIME_WAIT is free; one with a listener is not. Envoy itself would not
        # notice a listener: it binds with SO_REUSEPORT and would share the port with another Envoy.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            return "is taken" if error.errno == errno.EADDRINUSE else f"cannot be bound ({error.strerror})"
    return ""
