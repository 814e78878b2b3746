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
from extproc.envoyconf import feedback_route
from extproc.envoyconf.route_actions import literal
from extproc.registry.schema import Registry
from extproc.vocabulary import Api
from extproc.wire.decide_messages import CHECKED_HEADER, CLUSTER_HEADER
from extproc.wire.observed_metadata import REQUEST_NAMESPACE

_NO_KEY = 401
_UNDECIDED = (
    "The router could not check this request, and may not send it on unchecked. Try again in a moment."
)


def local_replies(registry: Registry) -> LocalReplyConfig:
    """Of the listener for clients.

    The first mapping that fits an error gives its body; other errors stay Envoy's plain text.
    """
    # Which API was asked is what was noted of it: routes rewrite paths. Of what is no LLM call nothing
    # is noted, but Anthropic's clients are known by a header that all of them send.
    noted = AccessLogFilter(metadata_filter=_noted(Api.ANTHROPIC_MESSAGES))
    version = HeaderMatcher(name="anthropic-version", present_match=True)
    asked_anthropic = _any_of(noted, AccessLogFilter(header_filter=HeaderFilter(header=version)))
    replies = _replies(registry, asked_anthropic)
    replies.mappers[:0] = [*_to_feedback(), *_undecided(registry)]
    return replies


def attached_replies(registry: Registry) -> LocalReplyConfig:
    """Of a listener that has routes of its own, whose errors stay as they are."""
    of = {api: AccessLogFilter(metadata_filter=_noted(api)) for api in Api}
    anthropic = of.pop(Api.ANTHROPIC_MESSAGES)
    return LocalReplyConfig(
        mappers=[
            *_to_feedback(),
            *_undecided(registry),
            *_mappers(registry, Api.ANTHROPIC_MESSAGES, anthropic),
            *_mappers(registry, Api.OPENAI_CHAT, _any_of(*of.values())),
        ]
    )


def hop_replies(registry: Registry) -> LocalReplyConfig:
    """Of a hop, which only LLM calls reach, with none of the notes."""
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


def _to_feedback() -> Iterator[ResponseMapper]:
    """What is told whoever gives feedback, none of which is about a model: these come first."""
    path = StringMatcher(safe_regex=RegexMatcher(regex=rf"{feedback_route.PATH}(\?.*)?"))
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
    # The sidecar's word on the client's token.
    yield ResponseMapper(
        filter=_all_of(here, _status(ComparisonFilterOp.EQ, _NO_KEY)),
        body_format_override=SubstitutionFormatString(
            text_format_source=DataSource(inline_string="%LOCAL_REPLY_BODY%"),
            content_type="application/json",
        ),
    )


def _undecided(registry: Registry) -> Iterator[ResponseMapper]:
    """What is told whose request nobody has decided, by the route that refuses it."""
    nowhere = AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=["NC"]))
    # A decision for a cluster that is not here has one of them: there the model is what is missing.
    conditions = [nowhere, *(_absent(name) for name in (CLUSTER_HEADER, CHECKED_HEADER))]
    for api in sorted(registry.refusing):
        noted = AccessLogFilter(metadata_filter=_noted(api))
        yield _mapper(api, _all_of(noted, *conditions), 503, _UNDECIDED, "router_unavailable")


def _absent(header: str) -> AccessLogFilter:
    matcher = HeaderMatcher(name=header, present_match=True, invert_match=True)
    return AccessLogFilter(header_filter=HeaderFilter(header=matcher))


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
    """The texts of a JSON value, where Envoy takes formats."""
    if isinstance(value, dict):
        return {key: _escaped(member) for key, member in value.items()}
    return literal(value) if isinstance(value, str) else value


def _noted(api: Api) -> MetadataFilter:
    """The script that observes the exchange has noted that ``api`` was asked."""
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
