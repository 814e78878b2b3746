"""What a route does with a request: cluster, path, timeouts, retries.

Clients use ``/v1/...``. The path of a provider's base URL replaces ``/v1``.
"""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Protocol

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRateLimitedRetryBackOff,
    RetryPolicyResetHeader,
    RetryPolicyResetHeaderFormat,
    RetryPolicyRetryBackOff,
    RouteAction,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from extproc.registry.cascade_settings import Retry
from extproc.registry.model_settings import Upstream
from extproc.registry.schema import Registry

API_ROOT = "/v1"
LLM_METHOD = "POST"

_RETRIED = "connect-failure,refused-stream,reset,retriable-status-codes"
_BACK_OFF = RetryPolicyRetryBackOff(
    base_interval=timedelta(milliseconds=25), max_interval=timedelta(milliseconds=250)
)


class AttemptPolicy(Protocol):
    """How long to wait for a model, and how often to retry it: of a route, or of a cascade's tier."""

    @property
    def timeout_s(self) -> float | None:
        """Seconds until it must begin to answer."""
        ...

    @property
    def retry(self) -> Retry | None:
        """None: no retries."""
        ...


def action(
    registry: Registry,
    upstream: Upstream,
    *,
    matched: str,
    cluster: str,
    policy: AttemptPolicy | None = None,
) -> RouteAction:
    """Send a request that a route matched by the prefix or path ``matched`` to ``upstream``'s cluster."""
    return RouteAction(
        cluster=cluster,
        auto_host_rewrite=True,
        prefix_rewrite=rewritten(matched, upstream),
        # A stream may take any time, but must not stay silent for longer than this.
        timeout=timedelta(0),
        idle_timeout=timedelta(seconds=registry.envoy.upstream_timeout_s),
        retry_policy=_tries(policy) if policy else None,
    )


def rewritten(matched: str, upstream: Upstream) -> str:
    """What replaces ``matched`` in the path that the provider gets. Empty: nothing."""
    if upstream.path == API_ROOT or not f"{matched}/".startswith(f"{API_ROOT}/"):
        return ""
    return upstream.path + matched.removeprefix(API_ROOT)


def header(name: str, value: str) -> HeaderValueOption:
    """A header that replaces one of that name from the client or the provider."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def exactly(name: str, value: str) -> HeaderMatcher:
    """The request header ``name`` is ``value``."""
    return HeaderMatcher(name=name, string_match=StringMatcher(exact=value))


def absent(name: str) -> HeaderMatcher:
    """There is no request header ``name``."""
    return HeaderMatcher(name=name, present_match=True, invert_match=True)


def one_of(paths: Iterable[str]) -> HeaderMatcher:
    """The request's path, without its query, is one of ``paths``."""
    regex = "|".join(re.escape(path) for path in sorted(paths))
    return HeaderMatcher(
        name=":path", string_match=StringMatcher(safe_regex=RegexMatcher(regex=rf"({regex})(\?.*)?"))
    )


def literal(text: str) -> str:
    """``text`` escaped for Envoy's formats, where a single % begins a command."""
    return text.replace("%", "%%")


def _tries(policy: AttemptPolicy) -> RetryPolicy | None:
    """How long one attempt may take to begin its answer, and how many retries there are."""
    if policy.timeout_s is None and policy.retry is None:
        return None
    return RetryPolicy(
        retry_on=_RETRIED if policy.retry else "",
        retriable_status_codes=list(policy.retry.statuses) if policy.retry else [],
        num_retries=policy.retry.attempts if policy.retry else 0,
        per_try_timeout=timedelta(seconds=policy.timeout_s) if policy.timeout_s else None,
        retry_back_off=_BACK_OFF,
        # The delay that a provider requests, up to what a client would wait.
        rate_limited_retry_back_off=RetryPolicyRateLimitedRetryBackOff(
            reset_headers=[
                RetryPolicyResetHeader(name="retry-after", format=RetryPolicyResetHeaderFormat.SECONDS)
            ],
            max_interval=timedelta(seconds=5),
        )
        if policy.retry
        else None,
    )
