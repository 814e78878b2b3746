"""Envoy is told where a key is, not what it is."""

from pathlib import Path

from extproc.envoyconf.messages import plain
from extproc.envoyconf.secrets import secrets
from extproc.registry.schema import Model, Registry


def test_a_models_key_file_is_named_relative_to_the_registry_and_not_read() -> None:
    registry = Registry(
        models={
            "a": Model(upstream="http://127.0.0.1:1", key_file="keys/a"),
            "b": Model(upstream="http://127.0.0.1:2", key_file="/run/secrets/b"),
            "c": Model(upstream="http://127.0.0.1:3"),
        },
        default="a",
    )
    assert [plain(secret) for secret in secrets(registry, Path("/etc/router"))] == [
        {"name": "key-a", "generic_secret": {"secret": {"filename": "/etc/router/keys/a"}}},
        {"name": "key-b", "generic_secret": {"secret": {"filename": "/run/secrets/b"}}},
    ]
