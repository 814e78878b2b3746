"""Whether this process is ready for traffic: every named component must be ready.

The health service and the admin page both show this state.
"""

from collections.abc import Callable, Mapping

_DRAINING = "draining"


class Components:
    """The components of the process, each with whether it is ready and a detail.

    All names are given at the start, so a component that never reports keeps the process unready. Call
    everything on the event loop's thread, except ``snapshot``, which any thread may call.
    """

    def __init__(self, *names: str) -> None:
        self._states: Mapping[str, tuple[bool, str]] = dict.fromkeys(names, (False, "starting"))
        self._listeners: list[Callable[[], None]] = []

    @property
    def ready(self) -> bool:
        """Whether every component is ready."""
        return all(ready for ready, _ in self._states.values())

    def snapshot(self) -> Mapping[str, tuple[bool, str]]:
        """A copy of the state: name of a component to (ready, detail)."""
        return self._states

    def report(self, name: str, *, ready: bool, detail: str = "") -> None:
        """Set the state of a component. Raises ``KeyError`` for a name that was not given at the start."""
        if name not in self._states:
            raise KeyError(name)
        self._put(name, ready, detail)

    def drain(self) -> None:
        """Make the process permanently unready. Later reports do not change that."""
        self._put(_DRAINING, False, "shutting down")

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change, on the thread that made it."""
        self._listeners.append(listener)

    def _put(self, name: str, ready: bool, detail: str) -> None:
        # The mapping is replaced, never changed, because another thread may read the old one.
        self._states = {**self._states, name: (ready, detail)}
        for listener in self._listeners:
            listener()
