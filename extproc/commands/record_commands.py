"""`extproc records`, `feedback` and `report`: what goes into the store, and what its traffic shows."""

import argparse
import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from extproc.commands.shared_options import command, listen_address, output_file, write_output
from extproc.commands.store_options import load_all, moment, store_of, takes_segments, takes_store
from extproc.errors import OperatorError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    _add_report(commands)
    records = commands.add_parser("records", help="load records into a store, or check that none is missing")
    actions = records.add_subparsers(metavar="ACTION", required=True)
    _add_import(actions)
    _add_check(actions)
    _add_schema(actions)
    feedback = commands.add_parser("feedback", help="load feedback on answers into a store")
    _add_feedback_import(feedback.add_subparsers(metavar="ACTION", required=True))


def _add_import(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = command(
        actions,
        "import",
        _import,
        "load records into a store",
        "Load segments that `extproc serve --records DIR` wrote, and files that Envoy itself wrote "
        "(`envoy.access_log`; rotated and gzipped ones too). Rows that the store already has, from an "
        "earlier import, a collector or another sidecar, are not added again, so the command may be "
        "repeated. Lines that cannot be read are skipped, counted and reported on stderr.",
    )
    takes_segments(parser, "+")
    takes_store(parser, required=True)


def _add_check(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = command(
        actions,
        "check",
        _check,
        "compare the records with what Envoy counts",
        "Compare Envoy's count of sent log entries with the stored records since Envoy started. The exit "
        "status is 1 if records are missing. Records of the last second may not have arrived yet. Name every "
        "Envoy whose records these are.",
    )
    takes_segments(parser, "*")
    takes_store(parser, required=False)
    parser.add_argument(
        "--admin",
        action="append",
        required=True,
        type=listen_address,
        metavar="HOST:PORT",
        help="Envoy's admin interface",
    )


def _add_schema(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command(
        actions,
        "schema",
        _schema,
        "print the tables and views of a store as SQL",
        "For a ClickHouse server that a collector writes to: the table as the collector's exporter makes it, "
        "and the views that every report reads. Importing makes both by itself; a server that only "
        "collectors write to needs them once, and again after an upgrade that adds columns.",
    )


def _add_feedback_import(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = command(
        actions,
        "import",
        _import_feedback,
        "load feedback on answers into a store",
        'Load JSON lines {"request_id" or "trace_id": ..., "score": 0 to 1, "label": ..., "source": ...}; '
        'also "name" (default feedback), "explanation", "time" and "id". A label such as good or bad implies '
        "a score. Duplicates are stored once. If any line is invalid, nothing is loaded.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the feedback")
    takes_store(parser, required=True)


def _schema(_: argparse.Namespace) -> int:
    from extproc.lab.store.store_schema import as_script

    sys.stdout.write(as_script())
    return 0


def _import(options: argparse.Namespace) -> int:
    segments, options.segments = options.segments, []
    with store_of(options, writes=True) as store:
        done = load_all(store, segments, options.priced_by)
    print(
        f"{done.rows} new rows of {done.lines} lines in {done.files} files; {done.known} were known, "
        f"{done.bad} were not records"
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    from extproc.envoyconf.envoy_process import Admin, Unreachable
    from extproc.lab.store.segment_loading import recorded_since

    now = datetime.now(UTC)
    try:
        reports = [asyncio.run(Admin(address).log_entry_counts(now)) for address in options.admin]
    except Unreachable as error:
        raise OperatorError(f"--admin: {error}") from error
    since = min(each.since for each in reports)
    with store_of(options, writes=False) as store:
        recorded = recorded_since(store, since)
    entries, dropped = sum(each.entries for each in reports), sum(each.dropped for each in reports)
    missing = max(0, entries - recorded)
    print(
        f"{entries} sent by Envoy since {since:%Y-%m-%dT%H:%M:%SZ}, {dropped} of them dropped; "
        f"{recorded} recorded, {missing} missing"
    )
    return 1 if missing else 0


def _import_feedback(options: argparse.Namespace) -> int:
    from extproc.lab.store.file_imports import feedback_in
    from extproc.lab.store.segment_loading import orphans

    # Read the whole file before the store is opened: a bad line must not leave half of it there.
    rows = list(feedback_in(options.file, datetime.now(UTC)))
    with tempfile.TemporaryDirectory() as folder, store_of(options, writes=True) as store:
        segment = Path(folder, "records-feedback.jsonl")
        segment.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        done = load_all(store, [segment])
        unknown = orphans(store)
    print(f"{done.rows} new feedback rows of {done.lines}; {done.known} were known")
    if unknown:
        print(f"{unknown} feedback rows in the store have no exchange there (yet)")
    return 0


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = command(
        commands,
        "report",
        _report,
        "report how each route and model does, the worst first",
        "From recorded traffic, per route and model: volume, quality by feedback and judges with 95 % "
        "intervals, errors, latency, tokens, cost and saving, margin and abstention over time. What is "
        "certainly bad, or became worse, comes first, however small its share. Reads a store, or segments.",
    )
    takes_segments(parser, "*")
    takes_store(parser, required=False)
    parser.add_argument(
        "--since", type=moment, metavar="WHEN", help="only from then on: 24h, 7d, or a time of ISO 8601 (UTC)"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--llm",
        action="store_true",
        help="report instead what the LLM said about requests in doubt, where the embedding leans to another "
        "route, and who was right, by opinions named `route`",
    )
    instead.add_argument(
        "--clearance",
        action="store_true",
        help="report instead whether requests with labels reached only models that the `--registry` clears "
        "for them; the exit status is 1 if not",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object")
    output.add_argument(
        "--html", type=output_file, metavar="FILE", help="also write one self-contained page with plots"
    )


def _report(options: argparse.Namespace) -> int:
    if options.clearance:
        return _report_clearance(options)
    if options.llm:
        return _report_doubts(options)
    from extproc.lab.traffic.traffic_page import as_page
    from extproc.lab.traffic.traffic_reading import read_report
    from extproc.lab.traffic.traffic_text import as_text

    with store_of(options, writes=False) as store:
        made = read_report(store, options.since)
    if options.json:
        print(msgspec.json.encode(made).decode())
    elif made is None:
        print("no traffic is recorded there")
    else:
        if options.html is not None:
            write_output(options.html, as_page(made))
        print(as_text(made))
    return 0


def _report_doubts(options: argparse.Namespace) -> int:
    from extproc.lab.traffic.doubt_report import doubts_text, read_doubts

    if options.html is not None:
        raise OperatorError("--llm has no page (expected --json, or no --html)")
    with store_of(options, writes=False) as store:
        made = read_doubts(store, options.since)
    print(msgspec.json.encode(made).decode() if options.json else doubts_text(made))
    return 0


def _report_clearance(options: argparse.Namespace) -> int:
    from extproc.lab.traffic.clearance_report import clearance_text, read_clearance
    from extproc.registry.registry_loading import load

    if options.html is not None:
        raise OperatorError("--clearance has no page (expected --json, or no --html)")
    if not options.priced_by:
        raise OperatorError("--clearance: what are models cleared for? (expected --registry FILE)")
    registry = load(options.priced_by[-1]).registry
    with store_of(options, writes=False) as store:
        made = read_clearance(store, registry, options.since)
    print(msgspec.json.encode(made).decode() if options.json else clearance_text(made))
    return 1 if made.breaches else 0
