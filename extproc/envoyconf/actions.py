"""What a route does with a request: where it goes, under which path, for how long, how often.

Clients speak ``/v1/...``; what a provider's base URL has as its path stands in place of ``/v1``.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import RetryPolicy, RouteAction
from envoy_data_plane.google.protobuf import UInt32Value

from extproc.registry.schema import Registry, Retry, Route
from extproc.registry.upstreams import Upstream
from extproc.vocabulary import Api

API_ROOT = "/v1"
LLM_METHOD = "POST"
LLM_PATHS = {
    Api.OPENAI_CHAT: f"{API_ROOT}/chat/completions",
    Api.OPENAI_COMPLETIONS: f"{API_ROOT}/completions",
    Api.OPENAI_RESPONSES: f"{API_ROOT}/responses",
    Api.ANTHROPIC_MESSAGES: f"{API_ROOT}/messages",
}

# What identifies a client to us is nobody else's business; the last two would even make OpenAI
# refuse the provider's own key.
_CREDENTIALS = (
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "openai-organization",
    "openai-project",
)
_NEVER_FORWARDED = ("proxy-authorization", "cookie", "x-forwarded-for", "x-envoy-external-address")
_RETRIED = "connect-failure,refused-stream,reset-before-request,retriable-status-codes"


def action(
    registry: Registry,
    upstream: Upstream,
    *,
    matched: str,
    cluster: str | None = None,
    cluster_header: str | None = None,
    policy: Route | None = None,
) -> RouteAction:
    """Send to ``upstream``'s cluster what a route matched by the prefix or path ``matched``."""
    return RouteAction(
        cluster=cluster,
        cluster_header=cluster_header,
        auto_host_rewrite=True,
        prefix_rewrite=rewritten(matched, upstream),
        # A stream may take as long as it likes, but not be silent for ever.
        timeout=timedelta(seconds=(policy and policy.timeout_s) or 0.0),
        idle_timeout=timedelta(seconds=registry.envoy.upstream_timeout_s),
        retry_policy=_retries(policy.retry) if policy and policy.retry else None,
    )


def rewritten(matched: str, upstream: Upstream) -> str:
    """What stands in place of ``matched`` in the path that the provider sees; empty: the same."""
    if upstream.path == API_ROOT or not matched.startswith(API_ROOT):
        return ""
    return upstream.path + matched.removeprefix(API_ROOT)


def removed_headers(upstream: Upstream) -> list[str]:
    """What a provider must not see of a client's request."""
    return list(_NEVER_FORWARDED if upstream.auth == "passthrough" else (*_CREDENTIALS, *_NEVER_FORWARDED))


def header(name: str, value: str) -> HeaderValueOption:
    """A header that replaces what the client or the provider sent of that name."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def literal(text: str) -> str:
    """``text`` where Envoy takes a format: a single % would begin a command."""
    return text.replace("%", "%%")


def _retries(retry: Retry) -> RetryPolicy:
    return RetryPolicy(
        retry_on=_RETRIED,
        retriable_status_codes=list(retry.statuses),
        num_retries=UInt32Value(value=retry.attempts),
    )
