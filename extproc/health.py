"""Whether this process should get traffic: the conjunction of its named components.

It knows neither gRPC nor HTTP, so that the health service and the admin page show the same.
"""

from collections.abc import Callable, Mapping

_DRAINING = "draining"


class Components:
    """The components that must all be ready, each with its state in words.

    All of them are named at the start, so that one which never reports keeps the process
    unready. Changes are made on the event loop's thread; ``snapshot`` may be read from any.
    """

    def __init__(self, *names: str) -> None:
        self._states: Mapping[str, tuple[bool, str]] = dict.fromkeys(names, (False, "starting"))
        self._listeners: list[Callable[[], None]] = []

    @property
    def ready(self) -> bool:
        """Whether every component is."""
        return all(ready for ready, _ in self._states.values())

    def snapshot(self) -> Mapping[str, tuple[bool, str]]:
        """Component name to (ready, detail); later changes do not show in it."""
        return self._states

    def report(self, name: str, *, ready: bool, detail: str = "") -> None:
        """Set one component's state. Raises ``KeyError`` for a name that was not given at the start."""
        if name not in self._states:
            raise KeyError(name)
        self._put(name, ready, detail)

    def drain(self) -> None:
        """Make the process unready for good, whatever its components report afterwards."""
        self._put(_DRAINING, False, "shutting down")

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change, on the thread that made it."""
        self._listeners.append(listener)

    def _put(self, name: str, ready: bool, detail: str) -> None:
        # Replaced, never changed in place: a reader on another thread holds one moment's state.
        self._states = {**self._states, name: (ready, detail)}
        for listener in self._listeners:
            listener()
