"""What Envoy observes of an exchange and puts into its dynamic metadata, for the record.

Plain JSON answers are read by ``json_to_metadata``, streams by a script that buffers nothing.
Whatever is not seen is absent, which the record calls unknown.
"""

from importlib.resources import files

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata.v3 import (
    JsonToMetadata,
    JsonToMetadataKeyValuePair,
    JsonToMetadataMatchRules,
    JsonToMetadataRule,
    JsonToMetadataSelector,
    JsonToMetadataValueType,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher
from envoy_data_plane.google.protobuf import Any, Struct

from extproc.vocabulary import Api
from extproc.wire.observed import USAGE_NAMESPACE

LUA = "envoy.filters.http.lua"
_JSON_TO_METADATA = "envoy.filters.http.json_to_metadata"
_JSON_TYPES = r"(?i)application/([a-z0-9.+-]+\+)?json[ \t]*(;.*)?"  # the default is no charset

# Where each API's plain answer says what: chat and completions, responses, Anthropic's messages.
_COUNTS = (
    ("usage.prompt_tokens", "input"),
    ("usage.input_tokens", "input"),
    ("usage.completion_tokens", "output"),
    ("usage.output_tokens", "output"),
    ("usage.prompt_tokens_details.cached_tokens", "cached"),
    ("usage.input_tokens_details.cached_tokens", "cached"),
    ("usage.cache_read_input_tokens", "cached"),
    ("usage.cache_creation_input_tokens", "cache_write"),
    ("usage.completion_tokens_details.reasoning_tokens", "reasoning"),
    ("usage.output_tokens_details.reasoning_tokens", "reasoning"),
    ("id", "id"),
    ("model", "model"),
    ("stop_reason", "finish"),
    ("status", "finish"),
)


def filters() -> list[HttpFilter]:
    """Both readers, off until a route says otherwise."""
    return [
        HttpFilter(name=LUA, typed_config=Any.pack(script("observe")), disabled=True),
        HttpFilter(name=_JSON_TO_METADATA, typed_config=Any.pack(_json_to_metadata()), disabled=True),
    ]


def switched_on() -> dict[str, Any]:
    """Per-route settings that switch the readers on.

    They count on the route that matches first, before the decision: the fail-open one.
    """
    return {name: Any.pack(FilterConfig(config=Any())) for name in (LUA, _JSON_TO_METADATA)}


def metadata(api: Api) -> dict[str, Struct]:
    """Route metadata by which the script knows the API that was asked."""
    return {LUA: Struct.from_dict({"api": api.value})}


def script(name: str) -> Lua:
    """The Lua filter that runs ``lua/NAME.lua``."""
    source = files(__package__).joinpath("lua", f"{name}.lua").read_text()
    return Lua(default_source_code=DataSource(inline_string=source))


def _json_to_metadata() -> JsonToMetadata:
    return JsonToMetadata(
        response_rules=JsonToMetadataMatchRules(
            rules=[_rule(path.split("."), key) for path, key in _COUNTS],
            allow_content_types_regex=RegexMatcher(regex=_JSON_TYPES),
        )
    )


def _rule(path: list[str], key: str) -> JsonToMetadataRule:
    return JsonToMetadataRule(
        selectors=[JsonToMetadataSelector(key=step) for step in path],
        # The value as it is: a number that came as text is none.
        on_present=JsonToMetadataKeyValuePair(
            metadata_namespace=USAGE_NAMESPACE, key=key, type=JsonToMetadataValueType.PROTOBUF_VALUE
        ),
    )
