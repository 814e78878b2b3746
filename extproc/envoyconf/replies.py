"""Errors that Envoy answers with by itself, in the shape of OpenAI's API.

What the sidecar answers (an immediate response) passes through here too, and must stay as it
is: it never uses 413, and Envoy's response flags, which the 5xx below ask for, are never set on it.
"""

import typing

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Struct

from extproc.registry.schema import Registry


def local_replies(registry: Registry) -> LocalReplyConfig:
    """The first mapping that fits an error gives its body; other errors stay Envoy's plain text."""
    limit = registry.envoy.max_body_bytes
    too_large = _error(
        f"The request body is larger than {limit} bytes.", "invalid_request_error", "request_too_large"
    )
    timeout = _error("The model did not answer in time.", "server_error", "upstream_timeout")
    unavailable = _error("The model is not available.", "server_error", "upstream_unavailable")
    equal, at_least = ComparisonFilterOp.EQ, ComparisonFilterOp.GE
    return LocalReplyConfig(
        mappers=[
            _mapper(_status(equal, 413), too_large),
            _mapper(_flagged(_status(equal, 504)), timeout),
            _mapper(_flagged(_status(at_least, 500)), unavailable),
        ]
    )


def _error(message: str, kind: str, code: str) -> dict[str, typing.Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _mapper(condition: AccessLogFilter, body: dict[str, typing.Any]) -> ResponseMapper:
    return ResponseMapper(
        filter=condition,
        body_format_override=SubstitutionFormatString(json_format=Struct.from_dict(body)),
    )


def _status(comparison: ComparisonFilterOp, status: int) -> AccessLogFilter:
    value = RuntimeUInt32(default_value=status, runtime_key=f"router.local_reply.{status}")
    return AccessLogFilter(
        status_code_filter=StatusCodeFilter(comparison=ComparisonFilter(op=comparison, value=value))
    )


def _flagged(condition: AccessLogFilter) -> AccessLogFilter:
    any_flag = AccessLogFilter(response_flag_filter=ResponseFlagFilter())
    return AccessLogFilter(and_filter=AndFilter(filters=[condition, any_flag]))
