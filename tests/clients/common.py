"""What the scripts of this directory share. Each asks the demo through one client library."""

import os
import re
from collections.abc import Callable
from typing import Any

import pydantic

URL = os.environ["ROUTER_URL"]  # of Envoy
KEY = "any"  # the demo asks for none, and clients ask for one
HELLO = "Hello!"
TRIP = "Three days in Oslo"
WEATHER = "use get_weather for Oslo"  # the demo's models call a tool that the prompt names
CARD = "My card is 4111 1111 1111 1111"  # a deny rule of the demo


class Trip(pydantic.BaseModel):
    """What the client wants to be given."""

    city: str
    days: int


def check_text(text: str | None) -> None:
    """One of the demo's models answered: which one it is depends on how busy the machine is."""
    assert text is not None
    assert re.match(r"\[demo-\S+\] You asked: ", text), text


def check_stream(pieces: list[str | None]) -> None:
    """The same, in more than one piece."""
    assert len(pieces) > 1, pieces
    check_text("".join(piece or "" for piece in pieces))


def check_denied(call: Callable[[], Any]) -> None:
    """The client's error carries what the deny rule says."""
    try:
        answer = call()
    except Exception as error:
        assert "Card numbers may not be sent to a model" in str(error), error
        return
    raise AssertionError(f"not denied: {answer}")
