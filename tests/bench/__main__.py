"""The benchmark: every scenario beside its baselines, on a stack of its own.

    python -m tests.bench [--rounds 5] [--seconds 3] [--only NAME…] [--json FILE] [--record "what changed"]
    python -m tests.bench --brief

It starts everything it needs and ends it: Postgres, the broker, an upstream, the server with two processes,
workers. Standard
output has a Markdown table of medians, with targets beside the figures; what is going on is told on
standard error. A wrong answer, or a right one that does not come, fails its scenario and the run, which
then ends with exit code 1. `--only` takes names and patterns (`create*`). `--brief` runs everything once
and short, on a server of one process, to see that it runs: its figures mean nothing.

Take ratios, and CPU milliseconds: rates are those of a machine at a time.

`--record` appends a row to `history.jsonl`, one for each accepted change. A row is a JSON object:

    commit   what was measured, as git abbreviates it; with a `+`, that and what was not committed yet
    date     ISO 8601, UTC
    change   what changed, in words
    machine  `cpu`, `cores`, `python`, `postgres`
    ratios   `scenario/series/figure` to a median: what holds one series against another, in % or times
    cpu_ms   `scenario/series` to the median of CPU milliseconds a request
    targets  `scenario/series/figure` to `value`, `target` and `met`
"""

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import orjson

from tests.bench.catalogue import SCENARIOS
from tests.bench.machine import commit, machine
from tests.bench.measuring import measure
from tests.bench.report import Report
from tests.bench.spans import Bench
from tests.bench.stack import running

HISTORY = Path(__file__).parent / "history.jsonl"
BRIEF_SECONDS = 0.2
INTERRUPTED = 130


def main() -> int:
    arguments = _arguments()
    names = _names(arguments.only)
    _be_stoppable()
    try:
        report = _measured(names, arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    print(report.markdown())
    if arguments.json:
        arguments.json.write_bytes(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2) + b"\n")
    if report.failures:
        return 1
    if arguments.record:
        with HISTORY.open("ab") as history:
            history.write(orjson.dumps(report.history_row(arguments.record)) + b"\n")
    return 0


def _be_stoppable() -> None:
    """Whatever asks us to end is a Ctrl-C, which unwinds the blocks and so ends all that was started.

    Only of that does an event loop know: an exception in one of its callbacks would be one connection's.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


def _measured(names: Sequence[str], arguments: argparse.Namespace) -> Report:
    is_brief: bool = arguments.brief
    rounds, seconds = (1, BRIEF_SECONDS) if is_brief else (arguments.rounds, arguments.seconds)
    with running(processes=1 if is_brief else 2) as stack:
        bench = Bench(stack, rounds, seconds, is_brief)
        report = Report(commit(), machine(stack), rounds, seconds, is_brief)
        for name in names:
            try:
                report.measured[name] = measure(name, SCENARIOS[name], bench)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured
                cause = _cause(error)
                traceback.print_exception(cause)
                report.failures[name] = f"{type(cause).__name__}: {cause}"
    return report


def _cause(error: BaseException) -> BaseException:
    """The first of those that many clients meet at once."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _names(patterns: Sequence[str] | None) -> list[str]:
    """Those that are asked for, in the order of the catalogue."""
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in SCENARIOS):
            sys.exit(f"no scenario is named {pattern}; there are {', '.join(SCENARIOS)}")
    return [name for name in SCENARIOS if any(fnmatchcase(name, each) for each in patterns or ["*"])]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each series has its turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one turn")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="scenarios, or patterns of their names")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go as JSON")
    parser.add_argument(
        "--record", metavar="CHANGE", help="append a row to the history, and say what changed"
    )
    parser.add_argument("--brief", action="store_true", help="only see that everything runs")
    known = parser.parse_args()
    if known.record and known.brief:
        parser.error("a brief run is not worth recording")
    return known


if __name__ == "__main__":
    sys.exit(main())
