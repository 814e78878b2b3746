"""Where Envoy sends requests: one cluster per registry model, and one for the sidecar."""

from datetime import timedelta
from urllib.parse import urlsplit

import betterproto2
from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
    ClusterLbPolicy,
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import Http1ProtocolOptions, Http2ProtocolOptions, TcpKeepalive
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import SdsSecretConfig
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.messages import address, extension, is_name
from extproc.envoyconf.secrets import secret_name
from extproc.registry.schema import Model, Registry, cluster_name

SIDECAR_CLUSTER = "ext-proc"

_CREDENTIAL_INJECTOR = "envoy.filters.http.credential_injector"
_UPSTREAM_CODEC = "envoy.filters.http.upstream_codec"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_MODEL_CONNECT = timedelta(seconds=1)
# A dead sidecar must cost a request no more than this; it is on this machine or beside it.
_SIDECAR_CONNECT = timedelta(milliseconds=250)
# vLLM and other servers on uvicorn close idle connections after 5 s. A request that Envoy sends
# on a connection just being closed fails, so Envoy must be the first to let go.
_IDLE_CONNECTION = timedelta(seconds=4)
# Envoy's default of 1,024 requests is far below what one process carries; load is shed by what
# stands behind: the sidecar's own queue and the provider's rate limit.
_NO_LIMIT = 1_000_000


def clusters(registry: Registry) -> list[Cluster]:
    """Every cluster that routes, filters and the sidecar's decisions name."""
    models = [model_cluster(name, model) for name, model in registry.models.items()]
    return [*models, sidecar_cluster(registry.envoy.sidecar)]


def model_cluster(name: str, model: Model) -> Cluster:
    """The pool of one registry model, ``model.base_url`` being ``http://HOST[:PORT]``.

    The provider's key is added here, in the cluster's own filters, so that whatever route leads
    to it, a request carries this provider's key or none.
    """
    url = urlsplit(model.base_url)
    host = url.netloc if url.port else f"{url.netloc}:80"
    return _cluster(
        cluster_name(name),
        # The name in the Host header is the provider's, not the one the client used.
        Endpoint(address=address(host), hostname=url.netloc),
        _provider_http(name, model),
        connect_timeout=_MODEL_CONNECT,
        # Answers take seconds and differ a lot: send to whoever is least busy.
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        upstream_connection_options=UpstreamConnectionOptions(
            tcp_keepalive=TcpKeepalive(keepalive_time=60, keepalive_interval=10, keepalive_probes=3)
        ),
    )


def sidecar_cluster(sidecar: str) -> Cluster:
    """The sidecar at ``HOST:PORT`` or ``unix:/PATH``: HTTP/2, for ext_proc and the access log."""
    http = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions()
        )
    )
    endpoint = Endpoint(address=address(sidecar))
    return _cluster(SIDECAR_CLUSTER, endpoint, http, connect_timeout=_SIDECAR_CONNECT)


def _cluster(
    name: str,
    endpoint: Endpoint,
    http: HttpProtocolOptions,
    *,
    connect_timeout: timedelta,
    lb_policy: ClusterLbPolicy = ClusterLbPolicy.ROUND_ROBIN,
    upstream_connection_options: UpstreamConnectionOptions | None = None,
) -> Cluster:
    by_name = endpoint.address is not None and is_name(endpoint.address)
    return Cluster(
        name=name,
        # STRICT_DNS takes every address behind the name, as a headless Kubernetes service has them.
        type=ClusterDiscoveryType.STRICT_DNS if by_name else ClusterDiscoveryType.STATIC,
        # The default prefers IPv6, which a name often has and a network often does not carry.
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED if by_name else ClusterDnsLookupFamily.AUTO,
        connect_timeout=connect_timeout,
        lb_policy=lb_policy,
        load_assignment=ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=endpoint)])],
        ),
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakersThresholds(
                    max_connections=_NO_LIMIT,
                    max_pending_requests=_NO_LIMIT,
                    max_requests=_NO_LIMIT,
                    max_retries=_NO_LIMIT,
                )
            ]
        ),
        typed_extension_protocol_options={_HTTP_OPTIONS: Any.pack(http)},
        upstream_connection_options=upstream_connection_options,
    )


def _provider_http(name: str, model: Model) -> HttpProtocolOptions:
    return HttpProtocolOptions(
        common_http_protocol_options=CommonHttpOptions(idle_timeout=_IDLE_CONNECTION),
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=Http1ProtocolOptions()
        ),
        http_filters=_key_filters(name) if model.auth else [],
    )


def _key_filters(model: str) -> list[HttpFilter]:
    credential = Generic(
        credential=SdsSecretConfig(name=secret_name(model)),
        header="authorization",
        header_value_prefix="Bearer ",
    )
    injector = CredentialInjector(
        overwrite=True, credential=extension("envoy.http.injected_credentials.generic", credential)
    )
    return [_filter(_CREDENTIAL_INJECTOR, injector), _filter(_UPSTREAM_CODEC, UpstreamCodec())]


def _filter(name: str, config: betterproto2.Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=Any.pack(config))
