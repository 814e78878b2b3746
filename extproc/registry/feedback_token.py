"""The token by which clients may give feedback: read by the sidecar, compared, and never told."""

import hmac
import logging
import threading
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from extproc.errors import NoFeedback, Unauthorized, Unavailable
from extproc.registry.model_settings import Auth
from extproc.registry.schema import FeedbackSettings

log = logging.getLogger(__name__)

_SCHEME = "bearer"


class FeedbackToken:
    """Whose feedback is taken: nobody's where the registry has no ``feedback``. Safe from any thread."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """``environment`` is this process's, for a token that is a variable's value."""
        self._environment = environment
        self._lock = threading.Lock()
        self._auth: Auth | None = None  # None: the registry wants no feedback
        self._directory = Path()
        self._digest: bytes | None = None  # None: there is no token, so nobody has it
        self._problem = ""

    def learn(self, feedback: FeedbackSettings | None, directory: Path) -> None:
        """From now on go by this section of a registry whose file is in ``directory``."""
        with self._lock:
            self._auth, self._directory = feedback.token if feedback else None, directory
        self.read()

    def read(self) -> None:
        """Read the token again. One that cannot be used is no token, which is logged."""
        with self._lock:
            token, problem = _read(self._auth, self._directory, self._environment)
            self._digest = sha256(token).digest() if token else None
            if problem and problem != self._problem:
                log.error("no feedback can be taken: %s", problem)
            self._problem = problem

    def admit(self, authorization: str) -> None:
        """Return for the header that holds the token.

        Raises:
            NoFeedback: the registry wants none.
            Unavailable: there is no token to compare with.
            Unauthorized: it is another token, or none.
        """
        if self._auth is None:
            raise NoFeedback("This router takes no feedback.")
        digest = self._digest
        if digest is None:
            raise Unavailable("The router has no token by which to take feedback.")
        scheme, _, presented = authorization.strip().partition(" ")
        # Of equal length, whatever was presented, the digests take the same time to compare.
        same = hmac.compare_digest(digest, sha256(presented.strip().encode()).digest())
        if scheme.lower() != _SCHEME or not same:
            raise Unauthorized("Feedback needs the router's token (expected authorization: Bearer TOKEN).")


def _read(auth: Auth | None, directory: Path, environment: Mapping[str, str]) -> tuple[bytes, str]:
    """The token, or what is wrong with it, in words that do not hold it."""
    if auth is None:
        return b"", ""
    if auth.env:
        where = f"${auth.env}"
        found = environment.get(auth.env, "").encode(errors="surrogateescape")
    else:
        where = str(directory / auth.file)
        try:
            found = (directory / auth.file).read_bytes()
        except OSError as error:
            return b"", f"{where}: {error.strerror}"
    token = found.rstrip(b"\r\n")  # as an editor or echo leaves it
    if not token or not all(33 <= byte < 127 for byte in token):
        return b"", f"{where} is no token (expected one line of visible characters)"
    return token, ""
