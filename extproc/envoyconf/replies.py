"""Errors that Envoy answers with by itself, in the shape of the API that was asked.

What the sidecar answers (an immediate response) passes through here too, and must stay as it
is: it never uses 413, and Envoy's response flags, which the 5xx below ask for, are never set on it.
"""

import typing
from collections.abc import Iterator

import msgspec
from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    HeaderFilter,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Struct

from extproc import apis
from extproc.envoyconf.actions import API_ROOT, LLM_PATHS, one_of
from extproc.registry.schema import Registry
from extproc.vocabulary import Api

_NO_KEY = 401
_MESSAGES = LLM_PATHS[Api.ANTHROPIC_MESSAGES].removeprefix(API_ROOT)


def local_replies(registry: Registry) -> LocalReplyConfig:
    """The first mapping that fits an error gives its body; other errors stay Envoy's plain text."""
    return LocalReplyConfig(
        mappers=[
            *_mappers(registry, Api.ANTHROPIC_MESSAGES, _asked_anthropic(registry)),
            *_mappers(registry, Api.OPENAI_CHAT),
        ]
    )


def _mappers(registry: Registry, api: Api, *asked: AccessLogFilter) -> Iterator[ResponseMapper]:
    limit = registry.envoy.max_body_bytes
    equal, at_least = ComparisonFilterOp.EQ, ComparisonFilterOp.GE
    for conditions, status, message, code in (
        ([_status(equal, 413)], 413, f"The request body is larger than {limit} bytes.", "request_too_large"),
        # By the injector of a provider's key that is not where it should be; nothing else here is a 401.
        # Told as it is, clients would take it for a word about their own key.
        ([_status(equal, _NO_KEY)], 503, "The router has no key for this model.", "upstream_unavailable"),
        ([_status(equal, 504), _flagged()], 504, "The model did not answer in time.", "upstream_timeout"),
        ([_status(at_least, 500), _flagged()], 503, "The model is not available.", "upstream_unavailable"),
    ):
        body = apis.error_body(api, status=status, message=message, code=code)
        yield ResponseMapper(
            filter=_all_of(*asked, *conditions),
            status_code=status,
            body_format_override=SubstitutionFormatString(
                json_format=Struct.from_dict(_escaped(msgspec.json.decode(body)))
            ),
        )


def _escaped(value: typing.Any) -> typing.Any:
    """In Envoy's formats a single % begins a command."""
    if isinstance(value, dict):
        return {key: _escaped(member) for key, member in value.items()}
    return value.replace("%", "%%") if isinstance(value, str) else value


def _asked_anthropic(registry: Registry) -> AccessLogFilter:
    """The path is Anthropic's, as its clients write it or as a route has rewritten it for a provider."""
    roots = {API_ROOT, *(m.path for m in registry.models.values() if Api.ANTHROPIC_MESSAGES in m.speaks)}
    return AccessLogFilter(header_filter=HeaderFilter(header=one_of(root + _MESSAGES for root in roots)))


def _status(comparison: ComparisonFilterOp, status: int) -> AccessLogFilter:
    value = RuntimeUInt32(default_value=status, runtime_key=f"router.local_reply.{status}")
    return AccessLogFilter(
        status_code_filter=StatusCodeFilter(comparison=ComparisonFilter(op=comparison, value=value))
    )


def _flagged() -> AccessLogFilter:
    return AccessLogFilter(response_flag_filter=ResponseFlagFilter())


def _all_of(*conditions: AccessLogFilter) -> AccessLogFilter:
    if len(conditions) == 1:
        return conditions[0]
    return AccessLogFilter(and_filter=AndFilter(filters=list(conditions)))
