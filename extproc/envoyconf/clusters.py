"""Where Envoy sends requests: one cluster per upstream of the registry, and one for the sidecar."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
    ClusterLbPolicy,
    OutlierDetection,
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    HealthCheckHttpHealthCheck,
    Http2ProtocolOptions,
    KeepaliveSettings,
    TcpKeepalive,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.network.dns_resolver.cares.v3 import CaresDnsResolverConfig
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.providers import http_options, transport_socket
from extproc.envoyconf.site import Names, Site
from extproc.envoyconf.typed_config import address, extension, is_name
from extproc.registry import model_settings
from extproc.registry.model_settings import BEARER, KeyHeader, Model, Upstream
from extproc.registry.schema import Registry, cluster_name

SIDECAR_CLUSTER = "ext-proc"
PASSTHROUGH_CLUSTER = "passthrough"

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_CONNECT = timedelta(seconds=1)
_TLS_CONNECT = timedelta(seconds=5)  # across the internet, and with a handshake
# A dead sidecar must cost a request no more than this; it is on this machine or beside it.
_SIDECAR_CONNECT = timedelta(milliseconds=250)
_SIDECAR_CHECK = timedelta(seconds=0.5)
# A failed health check keeps new streams from a sidecar and leaves the open ones alone. Those of a process
# that has stopped, or whose machine is gone, end when its connection does not answer a ping. Its gRPC
# server takes pings a second apart.
_SIDECAR_PINGS = KeepaliveSettings(interval=timedelta(seconds=2), timeout=timedelta(seconds=2))
# A failed stream tells of a sidecar's death sooner than the next check does.
_SIDECAR_OUTLIERS = OutlierDetection(
    split_external_local_origin_errors=True,
    consecutive_local_origin_failure=1,
    enforcing_consecutive_local_origin_failure=100,
    consecutive_gateway_failure=1,
    enforcing_consecutive_gateway_failure=100,
    consecutive_5xx=0,
    enforcing_success_rate=0,
    enforcing_local_origin_success_rate=0,
    interval=timedelta(seconds=0.2),
    # Longer by far than the health check takes to find out, or in between outcomes would be sent to
    # nobody; a check that goes well ends it.
    base_ejection_time=timedelta(seconds=10),
    max_ejection_time=timedelta(seconds=10),
    max_ejection_percent=100,
)
# Envoy's default of 1,024 requests is far below what one process carries; load is shed by what
# stands behind: the sidecar's own queue and the provider's rate limit.
_NO_LIMIT = 1_000_000

_BALANCING = {
    # Answers take seconds and differ a lot: send to whoever is least busy.
    "least_request": ClusterLbPolicy.LEAST_REQUEST,
    "round_robin": ClusterLbPolicy.ROUND_ROBIN,
    "random": ClusterLbPolicy.RANDOM,
}


def upstream_clusters(registry: Registry, site: Site, names: Names) -> list[Cluster]:
    """One cluster per upstream that the registry names."""
    made = []
    for name, upstream in upstreams_of(registry).items():
        key = upstream.key_header if isinstance(upstream, Model) else BEARER
        cluster = upstream_cluster(names[name], upstream, key, site)
        cluster.alt_stat_name = name if names[name] != name else ""
        made.append(cluster)
    return made


def upstreams_of(registry: Registry) -> Mapping[str, Upstream]:
    """Every upstream, by our name of its cluster."""
    models = {cluster_name(name): model for name, model in registry.models.items()}
    rest = registry.passthrough
    return {**models, PASSTHROUGH_CLUSTER: rest} if rest else models


def upstream_cluster(name: str, upstream: Upstream, key: KeyHeader, site: Site) -> Cluster:
    """The pool of one upstream; its secret, if it has one, has the cluster's name."""
    # The name in the Host header is the provider's, not the one the client used.
    endpoints = [
        LbEndpoint(
            endpoint=Endpoint(address=address(at), hostname=upstream.url.netloc),
            load_balancing_weight=weight,
        )
        for at, weight in upstream.addresses.items()
    ]
    secure = upstream.url.scheme == "https"
    cluster = plain_cluster(name, endpoints, http_options(name, upstream, key, site))
    cluster.connect_timeout = _TLS_CONNECT if secure else _CONNECT
    cluster.lb_policy = _BALANCING[upstream.load_balancing]
    cluster.transport_socket = transport_socket(upstream, site) if secure else None
    cluster.upstream_connection_options = UpstreamConnectionOptions(
        tcp_keepalive=TcpKeepalive(keepalive_time=60, keepalive_interval=10, keepalive_probes=3)
    )
    if upstream.health_check is not None:
        cluster.health_checks = [_health_check(upstream.health_check, upstream.url.netloc)]
    if upstream.outlier_ejection is not None:
        cluster.outlier_detection = _outlier_detection(upstream.outlier_ejection)
    if upstream.max_requests is not None and cluster.circuit_breakers is not None:
        cluster.circuit_breakers.thresholds[0].max_requests = upstream.max_requests
    # By default Envoy sends to sick endpoints too once half of them are, and learns of changes after
    # a second: a pool whose endpoints are known to be sick fails at once, so that a fallback answers.
    cluster.common_lb_config = ClusterCommonLbConfig(
        healthy_panic_threshold=Percent(value=0.0), update_merge_window=timedelta(0)
    )
    return cluster


def sidecar_cluster(sidecars: Sequence[str]) -> Cluster:
    """The sidecars at ``HOST:PORT`` or ``unix:/PATH``: HTTP/2, for ext_proc and the access log.

    Each is asked for its health, so that one that is gone, hangs or is about to stop is not asked
    for a decision that would not come.
    """
    http = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(connection_keepalive=_SIDECAR_PINGS)
        )
    )
    endpoints = [LbEndpoint(endpoint=Endpoint(address=address(sidecar))) for sidecar in sidecars]
    cluster = plain_cluster(SIDECAR_CLUSTER, endpoints, http)
    cluster.connect_timeout = _SIDECAR_CONNECT
    cluster.health_checks = [
        HealthCheck(
            grpc_health_check=HealthCheckGrpcHealthCheck(),
            timeout=_SIDECAR_CHECK,
            interval=_SIDECAR_CHECK,
            no_traffic_interval=_SIDECAR_CHECK,  # Envoy's default is a minute
            # One late answer is a busy machine, not a sick sidecar; what refuses connections is
            # ejected at once all the same.
            unhealthy_threshold=3,
            healthy_threshold=1,
        )
    ]
    cluster.outlier_detection = _SIDECAR_OUTLIERS
    # With none that is healthy, Envoy goes on by its own default at once; and what it finds out, all
    # of its workers know at once.
    cluster.common_lb_config = ClusterCommonLbConfig(
        healthy_panic_threshold=Percent(value=0.0), update_merge_window=timedelta(0)
    )
    return cluster


def plain_cluster(name: str, endpoints: list[LbEndpoint], http: HttpProtocolOptions) -> Cluster:
    """A cluster of equal endpoints without limits of ours."""
    by_name = any(is_name(_address(endpoint)) for endpoint in endpoints)
    return Cluster(
        name=name,
        # STRICT_DNS takes every address behind a name, as a headless Kubernetes service has them.
        type=ClusterDiscoveryType.STRICT_DNS if by_name else ClusterDiscoveryType.STATIC,
        # The default prefers IPv6, which a name often has and a network often does not carry.
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED if by_name else ClusterDnsLookupFamily.AUTO,
        typed_dns_resolver_config=_resolver() if by_name else None,
        load_assignment=ClusterLoadAssignment(
            cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)]
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
    )


def _resolver() -> TypedExtensionConfig:
    """The system's name servers, given up on in seconds.

    Envoy does not start before it has had an answer or given up, which by default takes a minute
    where no server answers. Two tries, since one packet may be lost.
    """
    return extension(
        "envoy.network.dns_resolver.cares", CaresDnsResolverConfig(query_timeout_seconds=1, query_tries=2)
    )


def _address(endpoint: LbEndpoint) -> Address:
    assert endpoint.endpoint is not None
    assert endpoint.endpoint.address is not None
    return endpoint.endpoint.address


def _health_check(check: model_settings.HealthCheck, host: str) -> HealthCheck:
    return HealthCheck(
        http_health_check=HealthCheckHttpHealthCheck(path=check.path, host=host),
        interval=timedelta(seconds=check.interval_s),
        no_traffic_interval=timedelta(seconds=check.interval_s),  # Envoy's default is a minute
        timeout=timedelta(seconds=check.timeout_s),
        unhealthy_threshold=check.unhealthy_after,
        healthy_threshold=check.healthy_after,
    )


def _outlier_detection(ejection: model_settings.OutlierEjection) -> OutlierDetection:
    return OutlierDetection(
        consecutive_5xx=ejection.after,
        # By default Envoy also ejects whoever fails more often than its peers.
        enforcing_success_rate=0,
        base_ejection_time=timedelta(seconds=ejection.for_s),
        # A server may say that it is well and fail all the same: by default a check would end its time.
        successful_active_health_check_uneject_host=False,
        # How often it looks whose time is over; ten seconds by default.
        interval=timedelta(seconds=1),
        # By default Envoy ejects a tenth at most: of one endpoint, none.
        max_ejection_percent=100,
    )
