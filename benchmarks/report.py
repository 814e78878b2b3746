"""What a run found, and how it is shown: Markdown that reads well in a terminal, ratios first."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from benchmarks.summary import Ratio, Summary
from benchmarks.testbed import Memory

_Line = tuple[str, ...]

# The last one is how much of a core the load generator took: it shares the machine with the rest.
_COLUMNS = ("x plain Envoy", "x do-nothing", "p50 ms", "p99 ms", "requests/s", "generator CPU")


class Measured(msgspec.Struct, frozen=True):
    """One row at one concurrency."""

    name: str
    connections: int
    expected: str  # the outcome that answers should have
    summary: Summary
    to_plain: Ratio  # median latency as a multiple of plain Envoy's
    to_do_nothing: Ratio  # and of the do-nothing ext_proc's

    @property
    def as_expected(self) -> float:
        """Share of the answers that have the expected outcome."""
        return self.summary.outcomes.get(self.expected, 0) / self.summary.answers


class Report(msgspec.Struct, frozen=True):
    """Everything that a run found."""

    machine: Mapping[str, str]
    rows: Sequence[Measured]
    hasty: Measured  # saturated, with the default budget
    starts_s: Sequence[float]
    idle: Memory
    loaded: Memory
    steps_us: Mapping[str, float]

    @property
    def surprises(self) -> Sequence[Measured]:
        """Rows with an answer that is not as expected: what they measured is not what they are called."""
        return [row for row in self.rows if row.as_expected < 1]


def render(report: Report) -> str:
    """The report as Markdown."""
    concurrencies = sorted({row.connections for row in report.rows})
    sections = (
        _table(("machine", ""), report.machine.items()),
        *(_rows(report, connections) for connections in concurrencies),
        _hasty(report.hasty),
        _table(("sidecar", ""), _sidecar(report)),
        _table(("one step, in process", "us"), _steps(report.steps_us)),
        *(f"NOT AS EXPECTED: {row.name}, {_outcomes(row)}" for row in report.surprises),
    )
    return "\n\n".join(sections) + "\n"


def _rows(report: Report, connections: int) -> str:
    heading = (_connections(connections), *_COLUMNS)
    return _table(heading, (_row(row) for row in report.rows if row.connections == connections))


def _row(row: Measured) -> _Line:
    found = row.summary
    return (
        row.name,
        _ratio(row.to_plain),
        _ratio(row.to_do_nothing),
        f"{found.p50_ms:.2f}",
        f"{found.p99_ms:.2f}",
        f"{found.per_second:,.0f}",
        f"{found.generator_cpu:.0%}",
    )


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _hasty(row: Measured) -> str:
    found = row.summary
    shares = (
        (outcome, f"{count / found.answers:.1%}")
        for outcome, count in sorted(found.outcomes.items(), key=lambda item: -item[1])
    )
    times = (
        ("p50 / p99 ms", f"{found.p50_ms:.0f} / {found.p99_ms:.0f}"),
        ("requests/s", f"{found.per_second:,.0f}"),
    )
    return _table((f"{row.name}, {_connections(row.connections)}", ""), (*shares, *times))


def _sidecar(report: Report) -> Iterator[_Line]:
    first, *later = report.starts_s
    yield "first start to /readyz", f"{first:.2f} s"
    yield "later starts", " ".join(f"{seconds:.2f}" for seconds in later) + " s"
    yield "memory before the first request", f"{report.idle.resident:.0f} MiB"
    yield "memory after the run", f"{report.loaded.resident:.0f} MiB (peak {report.loaded.peak:.0f})"


def _steps(steps: Mapping[str, float]) -> Iterator[_Line]:
    for name, microseconds in steps.items():
        yield name, f"{microseconds:.1f}"


def _outcomes(row: Measured) -> str:
    counts = ", ".join(f"{count:,} x {outcome!r}" for outcome, count in row.summary.outcomes.items())
    return f"{_connections(row.connections)}: expected {row.expected!r}, got {counts}"


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"


def _table(heading: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    cells = [tuple(heading), *(tuple(line) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(line, widths) for line in (cells[0], rule, *cells[1:]))


def _line(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(line, widths, strict=True)
    padded = (first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others))
    return f"| {' | '.join(padded)} |"
