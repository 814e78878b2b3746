"""Becomes a command that the kernel kills when the process that started it is gone.

    python -I -S tether.py PARENT_PID COMMAND [ARGUMENT ...]

A supervisor that is SIGKILLed cannot stop its children; PR_SET_PDEATHSIG (Linux) can. It is set
here, in a process of its own, because running Python between fork and exec (``preexec_fn``) may
deadlock in a parent that has threads. Elsewhere than on Linux only the command is run. The file is run
by its path and imports nothing of ours, so that it costs a bare interpreter's start.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, command: list[str]) -> None:
    """Replaces this process by ``command``; ends with a message when it cannot be run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")  # before the request to be told of it
    try:
        os.execvp(command[0], command)  # noqa: S606 - to become the command is the purpose
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
