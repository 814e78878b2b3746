"""The token that authorizes feedback: the sidecar reads it, compares it and never shows it."""

import hmac
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from extproc.errors import NoFeedback, Unauthorized, Unavailable
from extproc.registry.model_settings import Auth
from extproc.registry.schema import FeedbackSettings

log = logging.getLogger(__name__)

_SCHEME = "bearer"


class FeedbackToken:
    """Authorizes feedback by the settings of one registry; without settings it rejects all feedback."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """``environment`` is this process's, for a token that is a variable's value."""
        self._environment = environment
        self._auth: Auth | None = None  # None: the registry accepts no feedback
        self._directory = Path()
        self._digest: bytes | None = None  # None: there is no token that could match
        self._problem = ""

    def use(self, feedback: FeedbackSettings | None, directory: Path) -> None:
        """Use these settings from now on, of a registry whose file is in ``directory``."""
        self._auth, self._directory = feedback.token if feedback else None, directory
        self.read()

    def read(self) -> None:
        """Read the token again. A token that cannot be used counts as absent, and the reason is logged."""
        token, problem = _read(self._auth, self._directory, self._environment)
        self._digest = sha256(token).digest() if token else None
        if problem and problem != self._problem:
            log.error("feedback cannot be accepted: %s", problem)
        self._problem = problem

    def admit(self, authorization: str) -> None:
        """Return if the header ``authorization`` holds the token.

        Raises:
            NoFeedback: the registry accepts no feedback.
            Unavailable: there is no token to compare with.
            Unauthorized: the header has another token, or none.
        """
        if self._auth is None:
            raise NoFeedback("This router takes no feedback.")
        digest = self._digest
        if digest is None:
            raise Unavailable("The router has no valid feedback token; its operator must configure one.")
        scheme, _, presented = authorization.strip().partition(" ")
        # Digests have equal lengths, so comparing them takes the same time for any presented token.
        same = hmac.compare_digest(digest, sha256(presented.strip().encode()).digest())
        if scheme.lower() != _SCHEME or not same:
            raise Unauthorized("Feedback needs the router's token (expected authorization: Bearer TOKEN).")


def _read(auth: Auth | None, directory: Path, environment: Mapping[str, str]) -> tuple[bytes, str]:
    """The token, or a message about what is wrong with it that does not contain it."""
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
        return b"", f"{where} is not a valid token (expected one line of visible characters)"
    return token, ""
