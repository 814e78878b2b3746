"""`python -m extproc.demo`: runs Envoy, the sidecar and a pool of fake models in the foreground.

Reads PORT (Envoy's listener), ENVOY_ADMIN_PORT and ADMIN_PORT (the sidecar's) from the environment. A fake
model replaces every model of the registry whose base URL is on this machine. It listens on a free port, and
Envoy connects there. While the registry is edited, one line is printed for each accepted or rejected version.
"""

import argparse
import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from extproc.demo import loopback_ports
from extproc.demo.demo_stack import Ports, Stack, running_stack
from extproc.demo.loopback_ports import Claim
from extproc.demo.model_pool import FakeModel, Pool
from extproc.errors import OperatorError
from extproc.registry.model_settings import Auth
from extproc.registry.registry_loading import load
from extproc.registry.schema import Registry

_LOOPBACK = (loopback_ports.HOST, "localhost")
_POLL_S = 0.1
_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_EXAMPLE = """\
  curl -i {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "Why does my Rust code not build?"}}]}}'\
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM (status 0), or until an error (status 1, with a message on stderr)."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_until_signalled(options.registry, options.run_dir))
    except OperatorError as error:
        print(f"extproc.demo: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m extproc.demo", description=__doc__)
    parser.add_argument("--registry", type=Path, default=Path("config/demo.yaml"), metavar="FILE")
    parser.add_argument(
        "--run-dir", type=Path, default=Path(".run"), metavar="DIR", help="logs and records (default: .run)"
    )
    return parser


async def _until_signalled(registry: Path, run_dir: Path) -> None:
    """Serve until a signal. It cancels the serving, which stops everything that was started, in order.

    A second signal cancels the stopping too. The processes that still run are then killed.
    """
    serving = asyncio.create_task(serve(registry, run_dir, os.environ))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    await asyncio.wait([serving])
    if serving.cancelled():
        _report("stopped")
    else:
        serving.result()


async def serve(registry_path: Path, run_dir: Path, environment: Mapping[str, str]) -> None:
    """Start everything and wait for a failure. Raises OperatorError for it."""
    registry = load(registry_path).registry
    chosen = Ports(
        envoy=loopback_ports.from_environment(environment, "PORT", 10000),
        envoy_admin=loopback_ports.from_environment(environment, "ENVOY_ADMIN_PORT", 9901),
        sidecar_admin=loopback_ports.from_environment(environment, "ADMIN_PORT", 9902),
    )
    models = demo_models(registry, registry_path.parent)
    if registry.feedback is not None:
        _key(registry.feedback.token, registry_path.parent)
    loopback_ports.check(_stack_claims(chosen))
    async with Pool(models):
        for name, model in models.items():
            _report(f"demo model      {name} at {model.url}, in place of {registry.models[name].base_url}")
        upstreams = _replacements(registry, models)
        async with running_stack(
            registry_path, run_dir, chosen, upstreams=upstreams, report=_report
        ) as stack:
            _report(f"records         {stack.records}")
            _report(f"ready {stack.url}")
            _report(_EXAMPLE.format(url=stack.url))
            reporting = asyncio.create_task(_report_edits(stack))
            try:
                await stack.failed()
            finally:
                reporting.cancel()


async def _report_edits(stack: Stack) -> None:
    async for line in _edits(stack):
        _report(line)


def demo_models(registry: Registry, directory: Path) -> dict[str, FakeModel]:
    """A fake model for each registry model on this machine, by public name. Models elsewhere are real.

    Each listens on a free port instead of that in its base URL, because another checkout's demo may run too.
    A key file (relative to ``directory``) that does not exist is created with a new key. Raises OperatorError
    for an empty key, and for one that is not set in the environment.
    """
    models: dict[str, FakeModel] = {}
    for name, model in registry.models.items():
        upstream = urlsplit(model.base_url)
        if upstream.hostname not in _LOOPBACK:
            continue
        key = _key(model.auth, directory) if isinstance(model.auth, Auth) else ""
        # keep=0: a pool that runs for days must not keep its requests.
        models[name] = FakeModel(model.name or name, key=key, keep=0, apis=model.speaks)
    return models


def _replacements(registry: Registry, models: Mapping[str, FakeModel]) -> dict[str, str]:
    """The address of each running fake model, by the address of the model that it replaces.

    Raises OperatorError for two models at one address, because each fake model is a separate server.
    """
    replacements: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, model in models.items():
        for address in registry.models[name].addresses:
            first = owners.setdefault(address, name)
            if first != name:
                raise OperatorError(
                    f"the models {first} and {name} are both at {address}: change one's base_url"
                )
            replacements[address] = f"{model.host}:{model.port}"
    return replacements


def _key(auth: Auth, directory: Path) -> str:
    if auth.env:
        if key := os.environ.get(auth.env, ""):
            return key
        raise OperatorError(f"${auth.env} is not set (expected the key)")
    path = directory / auth.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(f"demo-{secrets.token_hex(16)}")
    key = path.read_text().strip()
    if not key:
        raise OperatorError(f"{path} is empty: write a key into it, or remove it to get a new one")
    return key


def _stack_claims(chosen: Ports) -> list[Claim]:
    listeners = [
        (chosen.envoy, "Envoy's listener", "PORT"),
        (chosen.envoy_admin, "Envoy's admin interface", "ENVOY_ADMIN_PORT"),
        (chosen.sidecar_admin, "the sidecar's admin interface", "ADMIN_PORT"),
    ]
    return [Claim(port, owner, f"set {variable} to another") for port, owner, variable in listeners]


def _report(line: str) -> None:
    print(line, flush=True)


class _Standing(msgspec.Struct, frozen=True):
    """The version that serves, and why the present files do not."""

    version: str
    problem: str = ""  # FILE:LINE: what is wrong
    restart_envoy: bool = False

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> "_Standing":
        """From the writer's ``status.json``."""
        return cls(status["version"], status["problem"], status["restart_envoy"])


async def _edits(stack: Stack) -> AsyncIterator[str]:
    """A line for every edit of the registry, until cancelled. Call it after the writer's first comparison."""
    before = _Standing.of(stack.writer_status())
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        while True:
            await asyncio.sleep(_POLL_S)
            now = _Standing.of(stack.writer_status())
            if now.problem:
                if now != before:
                    yield _rejected(now)
            elif now != before:
                yield _accepted(now, await _sidecar_detail(session, stack.sidecar_admin_url))
            before = now


def _rejected(now: _Standing) -> str:
    """The line for files that cannot be used."""
    return f"registry        rejected: {_one_line(now.problem)}; version {now.version} still serves"


def _accepted(now: _Standing, sidecar: str) -> str:
    """The line for files that serve. ``sidecar`` is its state in words, for example ``version 7af4``."""
    restart = "; restart Envoy to apply bootstrap.yaml" if now.restart_envoy else ""
    return f"registry        accepted: {_one_line(sidecar or f'version {now.version}')}{restart}"


async def _sidecar_detail(session: aiohttp.ClientSession, admin_url: str) -> str:
    """What the sidecar reports of its registry, which includes what needs a restart; empty: no answer."""
    try:
        async with session.get(f"{admin_url}/readyz") as answer:
            return str((await answer.json())["components"]["registry"]["detail"])
    except (aiohttp.ClientError, TimeoutError):
        return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
