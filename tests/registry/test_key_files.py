"""Keys that are not where the registry says are told in words that hold no key."""

from pathlib import Path

import pytest

from extproc.registry.key_files import key_problems, missing_keys
from extproc.registry.model_settings import Auth, Model, Passthrough, Tls
from extproc.registry.schema import Registry

URL = "http://127.0.0.1:1"


def problems(folder: Path, auth: object, environment: dict[str, str] | None = None) -> list[str]:
    model = Model(base_url=URL, auth=auth)  # type: ignore[arg-type]
    registry = Registry(models={"only": model, "open": Model(base_url=URL)}, default="only")
    return list(key_problems(registry, folder, environment or {}))


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> Auth:
    (folder / "a.key").write_bytes(content)
    (folder / "a.key").chmod(mode)
    return Auth(file="a.key")


@pytest.mark.parametrize("content", [b"sk-1", b"sk-1\n", b"sk-1\r\n"])
def test_a_good_key_file_is_no_problem(tmp_path: Path, content: bytes) -> None:
    assert problems(tmp_path, key_file(tmp_path, content)) == []


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"", 0o600, "{path} is empty, so Envoy answers every request with 503"),
        (b" \n", 0o600, "{path} is empty, so Envoy answers every request with 503"),
        (
            b"sk-1\nsk-2\n",
            0o600,
            "{path} is not a valid key, so every request fails (expected one line of visible characters)",
        ),
        (
            b"\xff\xfe",
            0o600,
            "{path} is not a valid key, so every request fails (expected one line of visible characters)",
        ),
        (b"sk-1", 0o644, "every user can read the key file {path} (expected mode 0600)"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_reported(
    tmp_path: Path, content: bytes, mode: int, words: str
) -> None:
    expected = words.format(path=tmp_path / "a.key")
    assert problems(tmp_path, key_file(tmp_path, content, mode)) == [f"models.only: {expected}"]


def test_a_key_file_that_is_absent_is_reported(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, Auth(file="absent"))
    assert (
        problem == f"models.only: cannot read the key file {tmp_path / 'absent'}: No such file or directory"
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"KEY": "sk-1"}, []),
        ({}, ["models.only: the environment variable KEY is not set, so Envoy has no key"]),
        ({"KEY": ""}, ["models.only: $KEY is empty, so Envoy answers every request with 503"]),
        (
            {"KEY": "sk-1\nsk-2"},
            [
                "models.only: $KEY is not a valid key, so every request fails (expected one line of visible characters)"
            ],
        ),
    ],
)
def test_a_key_in_the_environment(tmp_path: Path, environment: dict[str, str], expected: list[str]) -> None:
    assert problems(tmp_path, Auth(env="KEY"), environment) == expected


@pytest.mark.parametrize("auth", [None, "passthrough"])
def test_without_a_key_of_its_own_there_is_nothing_to_miss(tmp_path: Path, auth: object) -> None:
    assert problems(tmp_path, auth) == []


def test_the_passthrough_upstream_and_authorities_are_looked_at_too(tmp_path: Path) -> None:
    registry = Registry(
        models={"only": Model(base_url="https://a.test", tls=Tls(ca_file="ca.pem"))},
        default="only",
        passthrough=Passthrough(base_url=URL, auth=Auth(env="KEY")),
    )
    assert list(key_problems(registry, tmp_path, {})) == [
        f"models.only: the file {tmp_path / 'ca.pem'} in tls.ca_file does not exist, so Envoy rejects every certificate",
        "passthrough: the environment variable KEY is not set, so Envoy has no key",
    ]
    (tmp_path / "ca.pem").touch()
    assert list(key_problems(registry, tmp_path, {"KEY": "sk-1"})) == []


def registry(**auths: Auth) -> Registry:
    rest = auths.pop("rest", None)
    return Registry(
        models={name: Model(base_url="http://h:1", auth=auth) for name, auth in auths.items()},
        passthrough=Passthrough(base_url="http://h:1", auth=rest),
        default=next(iter(auths)),
    )


def write(path: Path, key: str, mode: int = 0o600) -> None:
    path.write_text(key)
    path.chmod(mode)


def test_a_file_that_cannot_be_used_is_missing_and_one_that_others_read_is_a_problem_only(
    tmp_path: Path,
) -> None:
    write(tmp_path / "good", "sk-1\n")
    write(tmp_path / "empty", "\n")
    write(tmp_path / "open", "sk-2", mode=0o644)
    keys = registry(
        good=Auth(file="good"), empty=Auth(file="empty"), open=Auth(file="open"), absent=Auth(file="absent")
    )
    assert list(missing_keys(keys, tmp_path)) == [
        f"models.empty: {tmp_path}/empty is empty, so Envoy answers every request with 503",
        f"models.absent: cannot read the key file {tmp_path}/absent: No such file or directory",
    ]
    found = list(key_problems(keys, tmp_path, {}))
    assert f"models.open: every user can read the key file {tmp_path}/open (expected mode 0600)" in found
    assert len(found) == 3
    assert "sk-" not in str(found)


def test_envoys_environment_is_not_ours_to_miss(tmp_path: Path) -> None:
    keys = registry(a=Auth(env="A_KEY"), rest=Auth(env="REST_KEY"))
    assert list(missing_keys(keys, tmp_path)) == []
    assert list(key_problems(keys, tmp_path, {"A_KEY": "sk"})) == [
        "passthrough: the environment variable REST_KEY is not set, so Envoy has no key"
    ]
