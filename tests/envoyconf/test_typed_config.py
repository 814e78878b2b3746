"""Addresses as operators write them; mistakes in messages are told."""

import pytest
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.cluster.v3 import Cluster

from extproc.envoyconf.typed_config import address, is_name, plain


@pytest.mark.parametrize(
    ("text", "expected", "name"),
    [
        ("127.0.0.1:80", {"socket_address": {"address": "127.0.0.1", "port_value": 80}}, False),
        ("[::1]:80", {"socket_address": {"address": "::1", "port_value": 80}}, False),
        ("router.svc:80", {"socket_address": {"address": "router.svc", "port_value": 80}}, True),
        ("unix:/run/a:80", {"pipe": {"path": "/run/a:80"}}, False),
    ],
)
def test_addresses(text: str, expected: object, name: bool) -> None:
    assert plain(address(text)) == expected
    assert is_name(address(text)) is name


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValueError, match="conect_timeout"):
        Cluster(name="a", conect_timeout=None)  # type: ignore[call-arg]  # the type checker refuses it too
    with pytest.raises(KeyError, match="conect_timeout"):
        Bootstrap.from_dict({"static_resources": {"clusters": [{"conect_timeout": "1s"}]}})


def test_a_value_of_the_wrong_type_is_refused_when_it_is_written() -> None:
    cluster = Cluster(name="a")
    cluster.name = 7  # type: ignore[assignment]
    with pytest.raises(ValueError, match="string"):
        plain(cluster)
