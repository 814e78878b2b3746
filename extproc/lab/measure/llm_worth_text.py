"""What an LLM in doubt adds, for people: the rows of its tables and a few lines."""

from extproc.lab.figures.number_formats import (
    count,
    counted,
    difference,
    dollars,
    interval,
    milliseconds,
    p_value,
    with_interval,
)
from extproc.lab.figures.report_layout import text_table
from extproc.lab.measure.llm_worth import LlmWorth

GROUP_HEAD = (
    "accuracy", "rows", "without the LLM", "nearest route", "with the LLM",
    "gain", "95 % interval", "mended", "broken",
)  # fmt: skip
READ = (
    "Nearest route: the most probable route is followed in doubt, without the LLM. Mended: wrong without the "
    "LLM and right with it; broken: the reverse. Serving's budgets, breaker and cache are not in them."
)


def as_text(worth: LlmWorth) -> str:
    """The tables and lines for a terminal."""
    return "\n".join(
        [
            f"the LLM in doubt  {worth.upstream_model} at {worth.url}",
            text_table(GROUP_HEAD, group_rows(worth)),
            *call_lines(worth),
            READ,
        ]
    )


def group_rows(worth: LlmWorth) -> list[list[str]]:
    """A row for each group of rows that is not empty."""
    return [
        [
            group.name,
            count(group.rows),
            with_interval(group.before),
            with_interval(group.nearest),
            with_interval(group.after),
            difference(group.gain.value),
            interval(group.gain, difference),
            count(group.mended),
            count(group.broken),
        ]
        for group in worth.groups
        if group.rows
    ]


def call_lines(worth: LlmWorth) -> list[str]:
    """How the calls ended, and what they cost."""
    ended = ", ".join(f"{result} {count(calls)}" for result, calls in worth.results.items()) or "none"
    lines = [
        f"{counted(worth.in_doubt, 'row')} in doubt, {counted(worth.calls, 'call')}: {ended}",
        f"all rows: {p_value(worth.p_value)} that it makes no difference",
    ]
    lines += [f"failed {count(calls)} times: {problem}" for problem, calls in worth.problems.items()]
    if worth.uncleared:
        uncleared = counted(worth.uncleared, "row")
        lines.append(f"{uncleared} in doubt may not be shown to it (`clearance`, `safety`)")
    if worth.calls:
        times = ", ".join(f"{name} {milliseconds(value)}" for name, value in worth.latency_ms.items())
        lines += [
            f"latency in ms, {worth.at_once} calls at once, deadline {milliseconds(worth.deadline_ms)}: "
            + times,
            f"{counted(worth.input_tokens, 'input token')}, {counted(worth.output_tokens, 'output token')}"
            + (f", {counted(worth.without_usage, 'call')} without usage" if worth.without_usage else ""),
            f"cost {dollars(worth.dollars)}"
            + ("" if worth.dollars is not None else f" (`{worth.model}` has no price, or no usage is known)"),
        ]
    return lines
