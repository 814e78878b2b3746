"""TLS believes only who proves to be the provider; credentials are this provider's or none."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from msgspec.structs import replace

from extproc.envoyconf import bootstrap, envoy_process
from extproc.errors import EnvoyRefused
from extproc.registry.model_settings import Auth, Endpoint, HealthCheck, Model, Tls
from extproc.registry.schema import Registry, RouteSettings
from extproc.vocabulary import Api
from tests.envoyconf.conftest import ASK, CHAT, JSON, World, decided
from tests.envoyconf.serving import BOTH, EVERY, Front, fronts, running, serving, write_authority

MESSAGES = "/v1/messages"


@asynccontextmanager
async def secure(
    directory: Path,
    *,
    names: tuple[str, ...] = ("api.test",),
    protocols: tuple[str, ...] = BOTH,
    believed: bool = True,
    url: str = "https://api.test:{port}",
    tls: Mapping[str, str] | None = None,
    **fields: Any,
) -> AsyncIterator[World]:
    """A world with one model, whose provider proves to be ``names``; the registry calls it ``url``.

    Unless it is ``believed``, the registry trusts another authority than the provider's.
    """
    theirs, other = trustme.CA(), trustme.CA()
    ca_file = write_authority(directory, theirs if believed else other)
    async with running("only") as providers:
        front = Front(providers["only"].port, theirs.issue_cert(*names), protocols)
        async with fronts(directory, {"only": front}) as ports:
            model = Model(
                base_url=url.format(port=ports["only"]),
                endpoints=[Endpoint(address=f"127.0.0.1:{ports['only']}")],
                tls=Tls(**{"ca_file": ca_file, **(tls or {})}),
                **fields,
            )
            async with serving(
                directory, Registry(models={"only": model}, default="only"), providers
            ) as world:
                yield world


@pytest.mark.parametrize(
    ("protocols", "spoken"), [(BOTH, "HTTP/2"), (("http/1.1",), "HTTP/1.1"), ((), "HTTP/1.1")]
)
async def test_a_provider_that_proves_its_name_is_spoken_to_in_the_best_protocol_it_offers(
    tmp_path: Path, protocols: tuple[str, ...], spoken: str
) -> None:
    async with secure(tmp_path, protocols=protocols) as world:
        assert (await world.ask()).by == "only"
        headers = world.only_request()[1].headers
    assert (headers["x-front-protocol"], headers["x-front-sni"]) == (spoken, "api.test")
    assert headers["host"].partition(":")[0] == "api.test"
    assert world.only_request()[1].body == ASK


@pytest.mark.parametrize(
    ("names", "url", "server_name", "sni"),
    [
        (("*.wild.test",), "https://api.wild.test:{port}", "", "api.wild.test"),
        (("elsewhere.test", "api.test"), "https://API.test:{port}", "", "api.test"),
        (("api.test",), "https://api.test.:{port}", "", "api.test"),
        (("real.test",), "https://api.test:{port}", "real.test", "real.test"),
        (("127.0.0.1",), "https://127.0.0.1:{port}", "", "-"),
    ],
    ids=["wildcard", "one of several", "a full name", "given in the registry", "an address"],
)
async def test_the_name_that_counts_is_the_hosts_or_the_registrys(
    tmp_path: Path, names: tuple[str, ...], url: str, server_name: str, sni: str
) -> None:
    async with secure(tmp_path, names=names, url=url, tls={"server_name": server_name}) as world:
        assert (await world.ask()).by == "only"
        assert world.only_request()[1].headers.get("x-front-sni", "-") == sni


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"believed": False}, "ssl.fail_verify_error: 1"),
        ({"names": ("evil.test",)}, "ssl.fail_verify_san: 1"),
        ({"names": ("*.test",), "url": "https://a.b.test:{port}"}, "ssl.fail_verify_san: 1"),
        ({"names": ("127.0.0.2",), "url": "https://127.0.0.1:{port}"}, "ssl.fail_verify_san: 1"),
    ],
    ids=["another authority", "another name", "a wildcard is one label", "another address"],
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_who_cannot_prove_to_be_the_provider_gets_no_request(
    tmp_path: Path, settings: dict[str, Any], why: str, path: str
) -> None:
    async with secure(tmp_path, apis=["openai.chat", "anthropic.messages"], **settings) as world:
        answer = await world.ask(EVERY, path=path)
        assert answer.status == 503
        assert answer.json()["error"]["message"] == "The model is not available."
        assert answer.json().get("type") == ("error" if path == MESSAGES else None)
        assert answer.headers["content-type"] == "application/json"
        assert not world.providers["only"].received
        assert why in await world.admin("/stats?filter=model-only.ssl.fail_verify")


async def test_what_the_system_trusts_does_not_include_a_private_authority(tmp_path: Path) -> None:
    async with secure(tmp_path, tls={"ca_file": ""}) as world:
        assert (await world.ask()).status == 503
        assert not world.providers["only"].received


@pytest.mark.parametrize("protocols", [BOTH, ("http/1.1",)])
async def test_health_is_asked_by_tls_too(tmp_path: Path, protocols: tuple[str, ...]) -> None:
    check = HealthCheck(path="/healthy", interval_s=0.1, timeout_s=1)
    async with secure(tmp_path, protocols=protocols, health_check=check) as world:
        assert (await world.ask(headers=JSON)).by == "only"
        checks = [request for request in world.providers["only"].received if request.path == "/healthy"]
        assert checks
        assert checks[0].headers["x-front-sni"] == "api.test"


KINDS = {
    "openai": ("authorization", "Bearer sk-openai"),
    "anthropic": ("x-api-key", "sk-anthropic"),
    "azure.ai.openai": ("api-key", "sk-azure.ai.openai"),
    "together_ai": ("authorization", "Bearer sk-together_ai"),
}
# What clients show: openai's the first, anthropic's the first two, Azure's the third.
CLIENTS = {"authorization": "Bearer clients", "x-api-key": "clients", "api-key": "clients"}
CREDENTIALS = {*CLIENTS, "proxy-authorization", "cookie", "x-goog-api-key", "openai-organization"}


@asynccontextmanager
async def company(directory: Path) -> AsyncIterator[World]:
    """One model per kind of provider, each with a key of its own, from a file or the environment."""
    async with running(*KINDS, "open", "theirs") as providers:
        models = {}
        for kind in KINDS:
            (directory / f"{kind}.key").write_text(f"sk-{kind}\n")
            models[kind] = Model(
                base_url=f"http://127.0.0.1:{providers[kind].port}",
                provider=kind,
                apis=list(Api),
                auth=Auth(file=f"{kind}.key"),
            )
        models["openai"] = replace(models["openai"], auth=Auth(env="OPENAI_KEY_OF_TEST"))
        for name, auth in (("open", None), ("theirs", "passthrough")):
            models[name] = Model(
                base_url=f"http://127.0.0.1:{providers[name].port}", apis=list(Api), auth=auth
            )
        registry = Registry(models=models, default="openai")
        async with serving(directory, registry, providers) as world:
            yield world


@pytest.fixture
async def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("OPENAI_KEY_OF_TEST", "sk-openai")
    async with company(tmp_path) as world:
        yield world


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_each_provider_gets_its_own_key_where_it_looks_for_it_and_no_other(
    mixed: World, path: str
) -> None:
    for kind, (header, value) in KINDS.items():
        mixed.forget()
        mixed.sidecar.decision = decided(kind)
        assert (await mixed.ask(EVERY, path=path, headers=JSON | CLIENTS)).by == kind
        headers = mixed.only_request()[1].headers
        assert {name: headers[name] for name in CREDENTIALS & headers.keys()} == {header: value}


async def test_a_model_without_auth_sees_no_credentials(mixed: World) -> None:
    mixed.sidecar.decision = decided("open")
    await mixed.ask(headers=JSON | CLIENTS | {"cookie": "a=b", "openai-organization": "org"})
    assert not CREDENTIALS & mixed.only_request()[1].headers.keys()


async def test_passthrough_shows_the_clients_credentials_as_they_are_and_nothing_else_of_it(
    mixed: World,
) -> None:
    mixed.sidecar.decision = decided("theirs")
    of_openai = {"openai-organization": "org", "openai-project": "proj"}
    await mixed.ask(headers=JSON | CLIENTS | of_openai | {"cookie": "a=b", "proxy-authorization": "Basic x"})
    headers = mixed.only_request()[1].headers
    assert {name: headers[name] for name in CREDENTIALS & headers.keys()} == CLIENTS | {
        "openai-organization": "org"
    }
    assert headers["openai-project"] == "proj"
    assert not {"x-forwarded-for", "x-envoy-external-address"} & headers.keys()


async def test_no_key_is_written_shown_or_told(mixed: World) -> None:
    answers = []
    for kind in KINDS:
        mixed.sidecar.decision = decided(kind)
        answers.append(await mixed.ask(headers=JSON | CLIENTS))
    answers.append(await mixed.ask(b"{", headers=JSON | CLIENTS))
    told = [str(answer.headers) + answer.body.decode() for answer in answers]
    pages = [
        await mixed.admin(page) for page in ("/config_dump?include_eds", "/stats", "/clusters", "/certs")
    ]
    told += [*pages, (mixed.log.parent / "envoy.yaml").read_text(), mixed.log.read_text()]
    assert "anthropic.key" in "".join(told)
    for kind in KINDS:
        assert f"sk-{kind}" not in "".join(told)
        others = [p for name, p in mixed.providers.items() if name != kind]
        assert f"sk-{kind}" not in str(
            [list(request.headers.values()) for p in others for request in p.received]
        )


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (CHAT, {"type": "server_error", "param": None, "code": "upstream_unavailable"}),
        (MESSAGES, {"type": "overloaded_error"}),
    ],
)
@pytest.mark.parametrize("sidecar_alive", [True, False], ids=["decided", "failing open"])
async def test_a_key_that_is_empty_is_the_routers_fault_not_the_clients(
    tmp_path: Path, path: str, shape: dict[str, Any], sidecar_alive: bool
) -> None:
    """A 401 would tell the client that its own key is wrong, and it would be neither retried nor replaced."""
    (tmp_path / "empty.key").write_text("\n")
    async with running("only") as providers:
        url = f"http://127.0.0.1:{providers['only'].port}"
        registry = Registry(
            models={"only": Model(base_url=url, auth=Auth(file="empty.key"), apis=list(Api))}, default="only"
        )
        async with serving(tmp_path, registry, providers, sidecar_alive=sidecar_alive) as world:
            answer = await world.ask(EVERY, path=path)
            assert answer.status == 503
            assert answer.json()["error"] == {"message": "The router has no key for this model.", **shape}
            assert not providers["only"].received


async def test_a_model_whose_key_is_not_there_falls_back_as_one_that_is_down(tmp_path: Path) -> None:
    (tmp_path / "empty.key").write_text("\n")
    async with running("keyless", "well") as providers:
        keyless, well = (f"http://127.0.0.1:{provider.port}" for provider in providers.values())
        registry = Registry(
            models={
                "keyless": Model(base_url=keyless, auth=Auth(file="empty.key")),
                "well": Model(base_url=well),
            },
            default="well",
            routes={"greeting": RouteSettings(candidates="keyless", examples=["hi"], fallback="well")},
        )
        async with serving(tmp_path, registry, providers) as world:
            world.sidecar.decision = decided("keyless", fallback=True)
            answer = await world.ask()
            assert (answer.status, answer.by) == (200, "well")
            assert not providers["keyless"].received


async def test_a_providers_own_401_reaches_the_client_as_it_is(mixed: World) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=401, body=b"the provider's own words")

    mixed.providers["openai"].handler = refuse
    answer = await mixed.ask()
    assert (answer.status, answer.body) == (401, b"the provider's own words")


def test_envoy_does_not_start_on_a_key_that_is_not_there(tmp_path: Path) -> None:
    """Told at its start, not with the first request."""
    for auth, words in ((Auth(file="absent"), "absent"), (Auth(env="NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE")):
        model = Model(base_url="http://127.0.0.1:1", auth=auth)
        tree = bootstrap.build(Registry(models={"only": model}, default="only"), tmp_path)
        config = tmp_path / "envoy.yaml"
        config.write_text(bootstrap.render(tree))
        with pytest.raises(EnvoyRefused, match=words):
            envoy_process.validate(envoy_process.find(), config)
