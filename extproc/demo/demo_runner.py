"""`python -m extproc.demo`: Envoy, the sidecar and a demo model pool in the foreground.

Reads PORT (Envoy's listener), ENVOY_ADMIN_PORT and ADMIN_PORT (the sidecar's) from the
environment. Every registry model whose base URL is on this machine is played by a fake one, on a free
port that Envoy is given in place of the base URL's.
"""

import argparse
import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from extproc.demo import loopback_ports
from extproc.demo.demo_stack import Ports, Stack, running_stack
from extproc.demo.loopback_ports import Claim
from extproc.demo.model_pool import FakeModel, Pool
from extproc.demo.registry_edits import edits
from extproc.errors import OperatorError
from extproc.registry.model_settings import Auth
from extproc.registry.registry_loading import load
from extproc.registry.schema import Registry

_LOOPBACK = (loopback_ports.HOST, "localhost")
_EXAMPLE = """\
  curl -i {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "Why does my Rust code not build?"}}]}}'\
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until SIGINT or SIGTERM (status 0), or until something fails (status 1, told on stderr)."""
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
    """Serves; a signal, at whatever point, cancels that and so unwinds what was started, in order.

    A second signal cancels the unwinding too: what is left then is killed.
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
    """Starts everything and waits for a failure. Raises OperatorError for it."""
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
        upstreams = _played(registry, models)
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
    async for line in edits(stack):
        _report(line)


def demo_models(registry: Registry, directory: Path) -> dict[str, FakeModel]:
    """A fake model for each registry model on this machine, by public name; others are real.

    Each listens on a free port, whichever its base URL names: another checkout's demo may run as well.
    A key's file (relative to ``directory``) that does not exist is made, with a fresh key. Raises
    OperatorError for a key that is empty, or expected in the environment and not there.
    """
    models: dict[str, FakeModel] = {}
    for name, model in registry.models.items():
        upstream = urlsplit(model.base_url)
        if upstream.hostname not in _LOOPBACK:
            continue
        key = _key(model.auth, directory) if isinstance(model.auth, Auth) else ""
        # keep=0: a pool that runs for days must not remember what it was asked.
        models[name] = FakeModel(model.name or name, key=key, keep=0, apis=model.speaks)
    return models


def _played(registry: Registry, models: Mapping[str, FakeModel]) -> dict[str, str]:
    """Where each fake model that runs listens, by the address of the model that it plays.

    Raises OperatorError for two models at one address: each fake model is a server of its own.
    """
    played: dict[str, str] = {}
    players: dict[str, str] = {}
    for name, model in models.items():
        for address in registry.models[name].addresses:
            first = players.setdefault(address, name)
            if first != name:
                raise OperatorError(
                    f"the models {first} and {name} are both at {address}: change one's base_url"
                )
            played[address] = f"{model.host}:{model.port}"
    return played


def _key(auth: Auth, directory: Path) -> str:
    if auth.env:
        if key := os.environ.get(auth.env, ""):
            return key
        raise OperatorError(f"${auth.env} is not set: there would be no key to send or to compare with")
    path = directory / auth.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(f"demo-{secrets.token_hex(16)}")
    key = path.read_text().strip()
    if not key:
        raise OperatorError(f"{path} holds no key: write one into it, or remove it to have one made")
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
