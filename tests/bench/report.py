"""A run as a Markdown table, as JSON, and as a row of the history."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.bench.catalogue import TARGETS
from tests.bench.measuring import Measured, medians
from tests.bench.spans import CPU, P50, P99, RATE, Figures

COLUMNS = (RATE, CPU, P50, P99)
RATIO_SIGNS = (", %", ", x")

LEGEND = (
    "Medians. CPU is a request's: of the API's processes and Postgres; in rows of pgbench of Postgres "
    "alone, of the no-op route of its processes alone, of what runs in one process (asyncpg, the store) "
    "of that process and Postgres; of jobs with the worker's. Load and upstream are never counted."
)


@dataclass
class Report:
    """What was measured, and what could not be."""

    commit: str
    machine: Mapping[str, Any]
    rounds: int
    seconds: float
    is_brief: bool
    measured: dict[str, Measured] = field(default_factory=dict[str, Measured])
    """By scenario."""
    failures: dict[str, str] = field(default_factory=dict[str, str])
    """By scenario: why it has no figures."""
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def markdown(self) -> str:
        lines = [
            self._title(),
            "",
            f"| scenario | series | {' | '.join(COLUMNS)} | further, and targets |",
            f"| --- | --- |{' ---: |' * len(COLUMNS)} --- |",
        ]
        for scenario, measured in self.measured.items():
            for place, (series, figures) in enumerate(medians(measured).items()):
                lines.append(self._row(scenario, series, figures, is_first=place == 0))
        lines += [f"| **{name}** | failed: {_one_line(why)} |" for name, why in self.failures.items()]
        return "\n".join([*lines, "", LEGEND])

    def _title(self) -> str:
        it = self.machine
        length = "brief" if self.is_brief else f"{self.rounds} rounds of {self.seconds:g} s"
        return (
            f"{self.date}, commit {self.commit or 'unknown'}, {it['cpu']}, {it['cores']} cores, "
            f"Python {it['python']}, PostgreSQL {it['postgres']}; {length}"
        )

    def _row(self, scenario: str, series: str, figures: Figures, *, is_first: bool) -> str:
        cells = [_number(figures[name]) if name in figures else "" for name in COLUMNS]
        verdicts = {name: self._verdict(scenario, series, name, value) for name, value in figures.items()}
        further = [f"{name}{verdicts[name]}" for name in COLUMNS if verdicts.get(name)]
        further += [
            f"{name}: {_number(value)}{verdicts[name]}"
            for name, value in figures.items()
            if name not in COLUMNS
        ]
        name = f"**{scenario}**" if is_first else ""
        return f"| {name} | {series} | {' | '.join(cells)} | {'; '.join(further)} |"

    def _verdict(self, scenario: str, series: str, figure: str, value: float) -> str:
        """The target, and whether it is met, where there is one. A brief run says nothing of that."""
        target = TARGETS.get((scenario, series, figure))
        if target is None:
            return ""
        verdict = "met" if target.is_met(value) else "**missed**"
        return f" ({target})" if self.is_brief else f" ({target}: {verdict})"

    def as_json(self) -> dict[str, Any]:
        """Medians beside the values of all rounds, and of the targets what became of them."""
        return {
            "commit": self.commit,
            "date": self.date,
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "brief": self.is_brief,
            "scenarios": {
                name: {"medians": medians(measured), "rounds": measured}
                for name, measured in self.measured.items()
            },
            "targets": self._targets(),
            "failures": self.failures,
        }

    def history_row(self, change: str) -> dict[str, Any]:
        """What is worth keeping of it; the format is told in `__main__`."""
        figures = self._flat()
        return {
            "commit": self.commit,
            "date": self.date,
            "change": change,
            "machine": dict(self.machine),
            "ratios": {name: value for name, value in figures.items() if name.endswith(RATIO_SIGNS)},
            "cpu_ms": {
                name.removesuffix(f"/{CPU}"): value
                for name, value in figures.items()
                if name.endswith(f"/{CPU}")
            },
            "targets": self._targets(),
        }

    def _flat(self) -> Figures:
        """By `scenario/series/figure`."""
        return {
            f"{scenario}/{series}/{figure}": round(value, 4)
            for scenario, measured in self.measured.items()
            for series, figures in medians(measured).items()
            for figure, value in figures.items()
        }

    def _targets(self) -> dict[str, Any]:
        flat, found = self._flat(), dict[str, Any]()
        for where, target in TARGETS.items():
            name = "/".join(where)
            if name in flat:
                is_met = target.is_met(flat[name])
                found[name] = {"value": flat[name], "target": str(target), "met": is_met}
        return found


def _number(value: float) -> str:
    """Three figures or so."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:300]
