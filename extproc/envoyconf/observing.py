"""What Envoy observes of an exchange and puts into its dynamic metadata, for the record.

A script reads along and buffers nothing. Whatever it does not see is absent, which the record calls
unknown.
"""

from importlib.resources import files

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua, LuaPerRoute
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.google.protobuf import Any, Struct

from extproc.vocabulary import Api

LUA = "envoy.filters.http.lua"
_IN_A_HOP = f"{LUA}.observe"  # where the filter of the usual name does something else


def observer() -> HttpFilter:
    """The reader, off until a route says otherwise."""
    return HttpFilter(name=LUA, typed_config=Any.pack(script("observe")), disabled=True)


def hop_observer() -> HttpFilter:
    """The reader in a hop, which gets the name of its model from ``hop_observed``."""
    return HttpFilter(name=_IN_A_HOP, typed_config=Any.pack(script("observe")))


def hop_observed(model: str, sent: str, provider: str, **place: str) -> dict[str, Any]:
    """Per-route settings of a hop: the model by its public name and its provider's, and who that is.

    ``place`` is where it stands in a cascade.
    """
    return enabled_script(_IN_A_HOP, model=model, sent=sent, provider=provider, **place)


def observed(api: Api) -> dict[str, Any]:
    """Per-route settings that switch the reader on and give it the API of the request.

    They count on the route that matches first, before the decision: the fail-open one.
    """
    return enabled_script(LUA, api=api.value)


def enabled_script(script: str, /, **context: str) -> dict[str, Any]:
    """Per-route settings that switch the filter ``script`` on and give it its ``filterContext``."""
    return {script: Any.pack(LuaPerRoute(filter_context=Struct.from_dict(context)))}


def script(name: str) -> Lua:
    """The Lua filter that runs ``lua/NAME.lua``."""
    source = files(__package__).joinpath("lua", f"{name}.lua").read_text()
    return Lua(default_source_code=DataSource(inline_string=source))
