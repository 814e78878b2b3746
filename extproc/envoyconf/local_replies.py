"""The errors that Envoy itself answers, in the shape of the requested API.

Immediate responses of the sidecar pass through these mappings too and must not change. They never have
status 413, and never the response flags that the mappings of 5xx require.
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
    MetadataFilter,
    OrFilter,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import DataSource, RuntimeUInt32, SubstitutionFormatString
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.type.matcher.v3 import (
    MetadataMatcher,
    MetadataMatcherPathSegment,
    RegexMatcher,
    StringMatcher,
    ValueMatcher,
)
from envoy_data_plane.google.protobuf import Struct

from extproc import apis
from extproc.envoyconf.direct_responses import FEEDBACK_PATH
from extproc.envoyconf.route_actions import absent, literal
from extproc.registry.schema import Registry
from extproc.vocabulary import Api
from extproc.wire.decide_messages import CHECKED_HEADER, CLUSTER_HEADER
from extproc.wire.observed_metadata import REQUEST_NAMESPACE

_NO_KEY = 401
_NOT_CHECKED = (
    "The router could not check this request, and may not send it on unchecked. Try again in a moment."
)


def local_replies(registry: Registry) -> LocalReplyConfig:
    """The mappings of the listener for clients.

    The first mapping that matches an error gives its body; other errors stay Envoy's plain text.
    """
    # Routes rewrite paths, so the requested API is read from metadata. A request that is not an LLM call has
    # no such metadata, but all of Anthropic's clients send the header.
    noted = AccessLogFilter(metadata_filter=_noted(Api.ANTHROPIC_MESSAGES))
    version = HeaderMatcher(name="anthropic-version", present_match=True)
    asked_anthropic = _any_of(noted, AccessLogFilter(header_filter=HeaderFilter(header=version)))
    replies = _replies(registry, asked_anthropic)
    replies.mappers[:0] = [*_feedback_errors(), *_unchecked_requests(registry)]
    return replies


def attached_replies(registry: Registry) -> LocalReplyConfig:
    """The mappings of a listener that has routes of its own. Errors of those routes do not change."""
    of = {api: AccessLogFilter(metadata_filter=_noted(api)) for api in Api}
    anthropic = of.pop(Api.ANTHROPIC_MESSAGES)
    return LocalReplyConfig(
        mappers=[
            *_feedback_errors(),
            *_unchecked_requests(registry),
            *_mappers(registry, Api.ANTHROPIC_MESSAGES, anthropic),
            *_mappers(registry, Api.OPENAI_CHAT, _any_of(*of.values())),
        ]
    )


def hop_replies(registry: Registry) -> LocalReplyConfig:
    """The mappings of a hop. Only LLM calls reach it, and they have no metadata of the outer listener."""
    path = StringMatcher(safe_regex=RegexMatcher(regex=r"[^?]*/messages(\?.*)?"))
    header = HeaderFilter(header=HeaderMatcher(name=":path", string_match=path))
    return _replies(registry, AccessLogFilter(header_filter=header))


def _replies(registry: Registry, asked_anthropic: AccessLogFilter) -> LocalReplyConfig:
    return LocalReplyConfig(
        mappers=[
            *_mappers(registry, Api.ANTHROPIC_MESSAGES, asked_anthropic),
            *_mappers(registry, Api.OPENAI_CHAT),
        ]
    )


def _feedback_errors() -> Iterator[ResponseMapper]:
    """Errors of feedback requests. They come first, because the other mappings speak of models."""
    path = StringMatcher(safe_regex=RegexMatcher(regex=rf"{FEEDBACK_PATH}(\?.*)?"))
    here = AccessLogFilter(header_filter=HeaderFilter(header=HeaderMatcher(name=":path", string_match=path)))
    large = apis.error_body(
        Api.OPENAI_CHAT, status=413, message="The feedback is too large.", code="request_too_large"
    )
    yield ResponseMapper(
        filter=_all_of(here, _status(ComparisonFilterOp.EQ, 413)),
        body_format_override=SubstitutionFormatString(
            json_format=Struct.from_dict(_escaped(msgspec.json.decode(large)))
        ),
    )
    # The sidecar rejects the client's token.
    yield ResponseMapper(
        filter=_all_of(here, _status(ComparisonFilterOp.EQ, _NO_KEY)),
        body_format_override=SubstitutionFormatString(
            text_format_source=DataSource(inline_string="%LOCAL_REPLY_BODY%"),
            content_type="application/json",
        ),
    )


def _unchecked_requests(registry: Registry) -> Iterator[ResponseMapper]:
    """The 503 of the route ``refuse``, for a request that the sidecar did not check."""
    nowhere = AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=["NC"]))
    # A decided request has one of these headers. If its cluster is missing, the error is about the model.
    conditions = [nowhere, *(_absent(name) for name in (CLUSTER_HEADER, CHECKED_HEADER))]
    for api in sorted(registry.refusing):
        noted = AccessLogFilter(metadata_filter=_noted(api))
        yield _mapper(api, _all_of(noted, *conditions), 503, _NOT_CHECKED, "router_unavailable")


def _absent(header: str) -> AccessLogFilter:
    return AccessLogFilter(header_filter=HeaderFilter(header=absent(header)))


def _mappers(registry: Registry, api: Api, *asked: AccessLogFilter) -> Iterator[ResponseMapper]:
    limit = registry.envoy.max_body_bytes
    equal, at_least = ComparisonFilterOp.EQ, ComparisonFilterOp.GE
    for conditions, status, message, code in (
        ([_status(equal, 413)], 413, f"The request body is larger than {limit} bytes.", "request_too_large"),
        # Only the credential injector answers 401 here, when a provider's key is missing. A client would
        # take a 401 for an error in its own key.
        ([_status(equal, _NO_KEY)], 503, "The router has no key for this model.", "upstream_unavailable"),
        ([_status(equal, 504), _flagged()], 504, "The model did not answer in time.", "upstream_timeout"),
        ([_status(at_least, 500), _flagged()], 503, "The model is not available.", "upstream_unavailable"),
    ):
        yield _mapper(api, _all_of(*asked, *conditions), status, message, code)


def _mapper(api: Api, condition: AccessLogFilter, status: int, message: str, code: str) -> ResponseMapper:
    body = apis.error_body(api, status=status, message=message, code=code)
    return ResponseMapper(
        filter=condition,
        status_code=status,
        body_format_override=SubstitutionFormatString(
            json_format=Struct.from_dict(_escaped(msgspec.json.decode(body)))
        ),
    )


def _escaped(value: typing.Any) -> typing.Any:
    """The JSON value with its texts escaped, because Envoy reads them as formats."""
    if isinstance(value, dict):
        return {key: _escaped(member) for key, member in value.items()}
    return literal(value) if isinstance(value, str) else value


def _noted(api: Api) -> MetadataFilter:
    """Matches exchanges whose metadata says that the request is of ``api``."""
    return MetadataFilter(
        matcher=MetadataMatcher(
            filter=REQUEST_NAMESPACE,
            path=[MetadataMatcherPathSegment(key="api")],
            value=ValueMatcher(string_match=StringMatcher(exact=api.value)),
        ),
        match_if_key_not_found=False,
    )


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


def _any_of(*conditions: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(or_filter=OrFilter(filters=list(conditions)))
