"""Where Envoy sends requests: one cluster per upstream of the registry, its key, and the sidecar's cluster.

Envoy reads keys from its environment or from the operator's files. No generated file contains a key.
"""

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
    DataSource,
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
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import GenericSecret, Secret
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.providers import http_options, secret_name, transport_socket
from extproc.envoyconf.typed_config import Names, Site, address, extension, is_name
from extproc.registry import model_settings
from extproc.registry.model_settings import BEARER, Auth, KeyHeader, Model, Upstream
from extproc.registry.schema import Registry, cluster_name

SIDECAR_CLUSTER = "ext-proc"
PASSTHROUGH_CLUSTER = "passthrough"

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_CONNECT = timedelta(seconds=1)
_TLS_CONNECT = timedelta(seconds=5)  # across the internet, and with a handshake
# A dead sidecar delays a request by at most this time. The sidecar is on the same machine or near it.
_SIDECAR_CONNECT = timedelta(milliseconds=250)
_SIDECAR_CHECK = timedelta(seconds=0.5)
# A failed health check keeps new streams from a sidecar and does not close open ones. Open streams of a
# process that hangs, or whose machine is gone, end when its connection does not answer a ping. The sidecar's
# gRPC server accepts pings at least a second apart.
_SIDECAR_PINGS = KeepaliveSettings(interval=timedelta(seconds=2), timeout=timedelta(seconds=2))
# A failed stream shows a dead sidecar sooner than the next health check.
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
    # Much longer than the health check needs to notice, so that no outcome is sent to a dead sidecar in
    # between. A successful check ends the ejection.
    base_ejection_time=timedelta(seconds=10),
    max_ejection_time=timedelta(seconds=10),
    max_ejection_percent=100,
)
# Envoy's default of 1,024 requests is far below what one process can carry. The sidecar's queue and the
# provider's rate limit shed load.
_NO_LIMIT = 1_000_000

_BALANCING = {
    # Answers take seconds and differ a lot, so the least busy endpoint is best.
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
    """Every upstream by our name of its cluster."""
    models: dict[str, Upstream] = {cluster_name(name): model for name, model in registry.models.items()}
    rest = registry.passthrough
    return {**models, PASSTHROUGH_CLUSTER: rest} if rest else models


def upstream_cluster(name: str, upstream: Upstream, key: KeyHeader, site: Site) -> Cluster:
    """The cluster of one upstream. Its secret, if any, is named after the cluster."""
    # The Host header names the provider, not the host that the client used.
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
    # By default, Envoy also uses unhealthy endpoints when half of them are unhealthy, and applies changes
    # after a second. Without both, a pool of unhealthy endpoints fails at once, and a fallback answers.
    cluster.common_lb_config = ClusterCommonLbConfig(
        healthy_panic_threshold=Percent(value=0.0), update_merge_window=timedelta(0)
    )
    return cluster


def sidecar_cluster(sidecars: Sequence[str]) -> Cluster:
    """The sidecars at ``HOST:PORT`` or ``unix:/PATH``: HTTP/2, for ext_proc and the access log.

    Health checks keep requests from a sidecar that is gone, hangs or is about to stop.
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
            # One late answer may only mean a busy machine. A sidecar that refuses connections is ejected
            # at once in any case.
            unhealthy_threshold=3,
            healthy_threshold=1,
        )
    ]
    cluster.outlier_detection = _SIDECAR_OUTLIERS
    # Without a healthy sidecar, Envoy uses the default model at once, and all workers apply a change of
    # health at once.
    cluster.common_lb_config = ClusterCommonLbConfig(
        healthy_panic_threshold=Percent(value=0.0), update_merge_window=timedelta(0)
    )
    return cluster


def plain_cluster(name: str, endpoints: list[LbEndpoint], http: HttpProtocolOptions) -> Cluster:
    """A cluster of equal endpoints without limits."""
    by_name = any(is_name(_address(endpoint)) for endpoint in endpoints)
    return Cluster(
        name=name,
        # STRICT_DNS uses every address of a name, as for a headless Kubernetes service.
        type=ClusterDiscoveryType.STRICT_DNS if by_name else ClusterDiscoveryType.STATIC,
        # The default prefers IPv6, which many names have and many networks do not support.
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
    """The system's name servers, with a timeout of seconds.

    Envoy starts only when a name is resolved or the resolver has given up, which by default takes a minute if
    no server answers. There are two tries, because one packet may be lost.
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
        # By default, Envoy also ejects endpoints that fail more often than their peers.
        enforcing_success_rate=0,
        base_ejection_time=timedelta(seconds=ejection.for_s),
        # A server may pass its health check and still fail requests. By default, the check ends the ejection.
        successful_active_health_check_uneject_host=False,
        # How often Envoy looks for ejections that are over. The default is ten seconds.
        interval=timedelta(seconds=1),
        # By default, Envoy ejects at most a tenth of the endpoints: of a single one, none.
        max_ejection_percent=100,
    )


def secrets(registry: Registry, site: Site, names: Names) -> list[Secret]:
    """One secret per upstream that has a key of its own.

    A key file contains only the key. Envoy removes newlines at its end.
    """
    return [
        Secret(
            name=secret_name(names[cluster]),
            generic_secret=GenericSecret(secret=_source(upstream.auth, site)),
        )
        for cluster, upstream in upstreams_of(registry).items()
        if isinstance(upstream.auth, Auth)
    ]


def _source(auth: Auth, site: Site) -> DataSource:
    if auth.env:
        return DataSource(environment_variable=auth.env)
    return DataSource(filename=str(site.registry / auth.file))
