"""Decides who may use a unix socket, and creates its directory.

A user who can write to the directory can replace the socket by another one, and so read prompts and decide.
So the directory is created for the service alone, and a directory that others can write to is rejected.
"""

import grp
import os
import stat
from pathlib import Path

import msgspec

from extproc.errors import OperatorError

UNIX = "unix:"


class Access(msgspec.Struct, frozen=True):
    """The owner may use the socket, and also a group, if one is named."""

    group: int | None = None

    @property
    def directory_mode(self) -> int:
        """Of a directory that is created. What members of the group create in it belongs to the group."""
        return 0o700 if self.group is None else 0o2770

    @property
    def socket_mode(self) -> int:
        """Of the socket. Connecting needs write permission."""
        return socket_mode(shared=self.group is not None)


OWNER_ONLY = Access()


def socket_mode(*, shared: bool) -> int:
    """The mode of a socket. If it is ``shared``, a group may use it too."""
    return 0o660 if shared else 0o600


def access_of(group: str | int) -> Access:
    """The access that ``envoy.socket_group`` gives; empty: the owner's alone. Raises ``OperatorError``."""
    if group == "":
        return OWNER_ONLY
    if isinstance(group, int) or group.isdecimal():
        return Access(int(group))
    try:
        return Access(grp.getgrnam(group).gr_gid)
    except KeyError:
        raise OperatorError(f"envoy.socket_group: there is no group {group!r} on this machine") from None


def own_directory(address: str, access: Access = OWNER_ONLY) -> None:
    """Create the directory of ``unix:PATH`` if it is missing. Any other address needs none.

    Raises:
        OperatorError: it cannot be created, or another user could replace a socket in it.
    """
    if not address.startswith(UNIX):
        return
    directory = Path(address.removeprefix(UNIX)).parent
    try:
        if not directory.exists():
            _make(directory, access)
        problem = _weakness(directory.stat(), access)
    except OSError as error:
        raise OperatorError(
            f"cannot create {directory} for the socket: {error.strerror} "
            "(create it for the user of this process, or choose a socket in another directory)"
        ) from error
    if problem:
        raise OperatorError(
            f"{directory} {problem}, who could replace the socket (expected a directory of this process's "
            f"user, with mode {access.directory_mode:04o}; a missing directory is created so)"
        )


def restrict(path: Path, access: Access) -> None:
    """Set the mode and group of the socket at ``path``, independently of the umask. Raises ``OSError``."""
    if access.group is not None:
        os.chown(path, -1, access.group)
    path.chmod(access.socket_mode)


def _make(directory: Path, access: Access) -> None:
    directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    if access.group is not None:
        os.chown(directory, -1, access.group)
    directory.chmod(access.directory_mode)


def _weakness(found: os.stat_result, access: Access) -> str:
    if found.st_uid not in (os.geteuid(), 0):
        return f"belongs to user {found.st_uid}"
    others = stat.S_IWOTH if found.st_gid == access.group else stat.S_IWOTH | stat.S_IWGRP
    if found.st_mode & others:
        return f"can be written to by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""
