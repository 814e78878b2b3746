"""Envoy is told where a key is, not what it is."""

from pathlib import Path

from extproc.envoyconf.key_secrets import secrets
from extproc.envoyconf.site import Names, Site
from extproc.envoyconf.typed_config import plain
from extproc.registry.model_settings import Auth, Model, Passthrough
from extproc.registry.schema import Registry


def test_a_models_key_file_is_named_relative_to_the_registry_and_not_read() -> None:
    registry = Registry(
        models={
            "a": Model(base_url="http://127.0.0.1:1", auth=Auth(file="keys/a")),
            "b": Model(base_url="http://127.0.0.1:2", auth=Auth(file="/run/secrets/b")),
            "c": Model(base_url="http://127.0.0.1:3"),
            "d": Model(base_url="http://127.0.0.1:4", auth=Auth(env="D_KEY")),
            "e": Model(base_url="http://127.0.0.1:5", auth="passthrough"),
        },
        passthrough=Passthrough(base_url="http://127.0.0.1:6", auth=Auth(file="keys/rest")),
        default="a",
    )
    assert [plain(secret) for secret in secrets(registry, Site(Path("/etc/router")), Names())] == [
        {"name": "key-model-a", "generic_secret": {"secret": {"filename": "/etc/router/keys/a"}}},
        {"name": "key-model-b", "generic_secret": {"secret": {"filename": "/run/secrets/b"}}},
        {"name": "key-model-d", "generic_secret": {"secret": {"environment_variable": "D_KEY"}}},
        {"name": "key-passthrough", "generic_secret": {"secret": {"filename": "/etc/router/keys/rest"}}},
    ]
