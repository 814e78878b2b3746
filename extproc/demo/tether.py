"""Replaces itself by a command that the kernel kills when the parent process ends.

    python -I -S tether.py PARENT_PID COMMAND [ARGUMENT ...]

A supervisor that gets SIGKILL cannot stop its children, but PR_SET_PDEATHSIG (Linux) does. It is set in a
separate process, because Python code between fork and exec (``preexec_fn``) may deadlock in a parent with
threads. On other systems, only the command is run. This file is run by its path and imports nothing of ours,
so that only a bare interpreter starts.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, command: list[str]) -> None:
    """Replace this process by ``command``. Exit with a message if it cannot be run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent process has ended")  # before the call of prctl
    try:
        os.execvp(command[0], command)  # noqa: S606 - to become the command is the purpose
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
