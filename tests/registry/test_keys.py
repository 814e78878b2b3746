"""What is said of keys before Envoy would stumble on them, and what is not: the key."""

from pathlib import Path

from extproc.registry.keys import key_problems, missing_keys
from extproc.registry.schema import Registry
from extproc.registry.upstreams import Auth, Model, Passthrough


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
        f"models.empty: {tmp_path}/empty is empty: every request will be a 401",
        f"models.absent: Envoy will have no key: {tmp_path}/absent: No such file or directory",
    ]
    told = list(key_problems(keys, tmp_path, {}))
    assert f"models.open: {tmp_path}/open may be read by everybody (expected mode 0600)" in told
    assert len(told) == 3
    assert "sk-" not in str(told)


def test_envoys_environment_is_not_ours_to_miss(tmp_path: Path) -> None:
    keys = registry(a=Auth(env="A_KEY"), rest=Auth(env="REST_KEY"))
    assert list(missing_keys(keys, tmp_path)) == []
    assert list(key_problems(keys, tmp_path, {"A_KEY": "sk"})) == [
        "passthrough: Envoy will have no key without $REST_KEY in its environment"
    ]
