"""How Envoy connects to a provider: protocol, TLS, credentials, and which headers it removes.

The cluster's own filters set credentials. So on every route to a provider, a request carries this provider's
key or none, and no other attempt of the request has it. The same filters remove ``x-router-*`` from every
answer, because only the router may set these headers.
"""

import ipaddress
from datetime import timedelta

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    TransportSocket,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation as HeaderMutationFilter,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import Mutations
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SdsSecretConfig,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsAutoHttpConfig,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.typed_config import ROUTER_PREFIX, Site, extension, without_prefix
from extproc.registry.model_settings import Auth, KeyHeader, Upstream

_CREDENTIAL_INJECTOR = "envoy.filters.http.credential_injector"
_HEADER_MUTATION = "envoy.filters.http.header_mutation"
_UPSTREAM_CODEC = "envoy.filters.http.upstream_codec"

# Headers that identify the client to us. No provider must get them. With the last two, OpenAI would even
# reject the provider's own key.
_CREDENTIALS = (
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "openai-organization",
    "openai-project",
)
_NEVER_FORWARDED = ("proxy-authorization", "cookie", "x-forwarded-for", "x-envoy-external-address")

# vLLM and other servers on uvicorn close idle connections after 5 s. A request on a connection that is being
# closed fails, so Envoy must close it first.
_IDLE = timedelta(seconds=4)
# Hosted APIs keep connections for minutes, and a new one needs a handshake across the internet.
_IDLE_TLS = timedelta(seconds=55)
# The system's certificate authorities in Debian, Ubuntu, Alpine and Envoy's own images.
SYSTEM_TRUST = "/etc/ssl/certs/ca-certificates.crt"


def http_options(cluster: str, upstream: Upstream, key: KeyHeader, site: Site) -> HttpProtocolOptions:
    """Protocol and credentials."""
    filters = [
        _cleaned(upstream),
        *([_injector(cluster, key, site)] if isinstance(upstream.auth, Auth) else []),
        _filter(_UPSTREAM_CODEC, UpstreamCodec()),
    ]
    if upstream.url.scheme == "https":
        return HttpProtocolOptions(
            common_http_protocol_options=CommonHttpOptions(idle_timeout=_IDLE_TLS),
            # HTTP/2 where the provider offers it (ALPN): one connection for many slow answers.
            auto_config=HttpProtocolOptionsAutoHttpConfig(
                http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=Http2ProtocolOptions()
            ),
            http_filters=filters,
        )
    return HttpProtocolOptions(
        common_http_protocol_options=CommonHttpOptions(idle_timeout=_IDLE),
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=Http1ProtocolOptions()
        ),
        http_filters=filters,
    )


def transport_socket(upstream: Upstream, site: Site) -> TransportSocket:
    """TLS with verification of the provider's certificate and name."""
    # Only the resolver uses the dot at the end of a full name: RFC 6066, section 3.
    name = (upstream.tls.server_name or upstream.url.hostname or "").removesuffix(".")
    trusted = str(site.registry / upstream.tls.ca_file) if upstream.tls.ca_file else SYSTEM_TRUST
    san_type = SubjectAltNameMatcherSanType.IP_ADDRESS if _is_ip(name) else SubjectAltNameMatcherSanType.DNS
    context = UpstreamTlsContext(
        sni="" if _is_ip(name) else name,  # an address is not allowed here: same section
        common_tls_context=CommonTlsContext(
            validation_context=CertificateValidationContext(
                trusted_ca=DataSource(filename=trusted),
                match_typed_subject_alt_names=[
                    SubjectAltNameMatcher(san_type=san_type, matcher=StringMatcher(exact=name))
                ],
            ),
        ),
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cleaned(upstream: Upstream) -> HttpFilter:
    """Removes the headers that a provider must not get, and those that a client must not get."""
    kept = upstream.auth == "passthrough"
    removed = _NEVER_FORWARDED if kept else (*_CREDENTIALS, *_NEVER_FORWARDED)
    mutations = Mutations(
        request_mutations=[HeaderMutation(remove=name) for name in removed],
        response_mutations=[without_prefix(ROUTER_PREFIX)],
        response_trailers_mutations=[without_prefix(ROUTER_PREFIX)],
    )
    return _filter(_HEADER_MUTATION, HeaderMutationFilter(mutations=mutations))


def _injector(cluster: str, key: KeyHeader, site: Site) -> HttpFilter:
    secret = secret_name(cluster)
    credential = Generic(
        credential=SdsSecretConfig(name=secret, sds_config=site.source(secret_part(secret))),
        header=key.name,
        header_value_prefix=key.prefix,
    )
    injector = CredentialInjector(
        overwrite=True, credential=extension("envoy.http.injected_credentials.generic", credential)
    )
    return _filter(_CREDENTIAL_INJECTOR, injector)


def secret_part(secret: str) -> str:
    """The dynamic part (see ``Site``) that holds one secret."""
    return f"sds-{secret}"


def secret_name(cluster: str) -> str:
    """The Envoy secret that holds the key of a cluster's provider."""
    return f"key-{cluster}"


def _filter(name: str, config: betterproto2.Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=Any.pack(config))
