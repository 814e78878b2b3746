"""Envoy is told where a key is, not what it is."""

from pathlib import Path

from extproc.envoyconf.messages import plain
from extproc.envoyconf.secrets import secrets
from extproc.registry.schema import Auth, Model, Registry


def test_a_models_key_file_is_named_relative_to_the_registry_and_not_read() -> None:
    registry = Registry(
        models={
            "a": Model(base_url="http://127.0.0.1:1", auth=Auth(file="keys/a")),
            "b": Model(base_url="http://127.0.0.1:2", auth=Auth(file="/run/secrets/b")),
            "c": Model(base_url="http://127.0.0.1:3"),
        },
        default="a",
    )
    assert [plain(secret) for secret in secrets(registry, Path("/etc/router"))] == [
        {"name": "key-a", "generic_secret": {"secret": {"filename": "/etc/router/keys/a"}}},
        {"name": "key-b", "generic_secret": {"secret": {"filename": "/run/secrets/b"}}},
    ]
