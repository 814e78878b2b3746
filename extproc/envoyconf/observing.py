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


def observer() -> HttpFilter:
    """The reader, off until a route says otherwise."""
    return HttpFilter(name=LUA, typed_config=Any.pack(script("observe")), disabled=True)


def observed(api: Api) -> dict[str, Any]:
    """Per-route settings that switch the reader on and tell it the API that is asked.

    They count on the route that matches first, before the decision: the fail-open one.
    """
    return told(api=api.value)


def told(**context: str) -> dict[str, Any]:
    """Per-route settings that switch a script on and give it its ``filterContext``."""
    return {LUA: Any.pack(LuaPerRoute(filter_context=Struct.from_dict(context)))}


def script(name: str) -> Lua:
    """The Lua filter that runs ``lua/NAME.lua``."""
    source = files(__package__).joinpath("lua", f"{name}.lua").read_text()
    return Lua(default_source_code=DataSource(inline_string=source))
