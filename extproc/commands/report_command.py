"""`extproc report`: is each route still good, and what did it cost?"""

import argparse

import msgspec

from extproc.commands.shared_options import command, output_file, write_output
from extproc.commands.store_options import moment, store_of, takes_segments, takes_store


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = command(
        commands,
        "report",
        _report,
        "report how each route and model does, the worst first",
        "From recorded traffic, per route and model: volume, quality by feedback and judges with 95 % "
        "intervals, errors, latency, tokens, cost and saving, margin and abstention over time. What is "
        "surely bad, or became worse, comes first, however small its share. Reads a store, or segments.",
    )
    takes_segments(parser, "*")
    takes_store(parser, required=False)
    parser.add_argument(
        "--since", type=moment, metavar="WHEN", help="only from then on: 24h, 7d, or a time of ISO 8601 (UTC)"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object")
    output.add_argument(
        "--html", type=output_file, metavar="FILE", help="also write one self-contained page with plots"
    )


def _report(options: argparse.Namespace) -> int:
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
