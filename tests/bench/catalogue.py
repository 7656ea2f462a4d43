"""Every scenario by its name, and what its figures should come to."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from tests.bench.measuring import HOLDFAST, Scenario
from tests.bench.scenarios import (
    background,
    chains,
    creating,
    followers,
    memory,
    reading,
    stored,
    streams,
)
from tests.bench.spans import CPU, EVENTS, RATE

SCENARIOS: Mapping[str, Scenario] = {
    "create-1": partial(creating.creating, clients=1),
    "create-16": partial(creating.creating, clients=16),
    "create-64": partial(creating.creating, clients=64),
    "chain": chains.chaining,
    "conversation": chains.conversing,
    "stream-28": partial(streams.streaming, deltas=28, is_paced=True),
    "stream-500": partial(streams.streaming, deltas=500, is_paced=False),
    "retrieve": reading.retrieving,
    "list": reading.listing,
    "accept": background.accepting,
    "jobs": background.doing,
    "waiting": background.waiting,
    "followers": followers.following,
    "stored": stored.storing,
    "memory": memory.remembering,
}


@dataclass(frozen=True)
class Target:
    """A bound for the median of a figure."""

    bound: float
    is_least: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.is_least else value <= self.bound

    def __str__(self) -> str:
        """As it stands in the table."""
        return f"{'≥' if self.is_least else '≤'} {self.bound:,g}"


def _least(bound: float) -> Target:
    return Target(bound, is_least=True)


TARGETS: Mapping[tuple[str, str, str], Target] = {
    ("create-16", HOLDFAST, CPU): Target(0.40),
    ("create-16", HOLDFAST, creating.RATE_OF_INSERT): _least(35),
    ("chain", "depth 100", chains.CPU_OF_FIRST): Target(3),
    ("chain", chains.ALONE, chains.OWN_PART): Target(10),
    **{("stored", f"depth {depth:,}", stored.ROW): Target(2200) for depth in stored.DEPTHS},
    ("stream-28", HOLDFAST, CPU): Target(0.9),
    ("stream-28", HOLDFAST, streams.OVER): Target(2),
    ("stream-28", streams.PACED, streams.OVER): Target(2),
    ("stream-500", HOLDFAST, EVENTS): _least(60_000),
    ("retrieve", HOLDFAST, CPU): Target(0.15),
    ("list", HOLDFAST, reading.CPU_OF_SELECT_1): Target(4),
    ("list", HOLDFAST, reading.TIME_OF_SELECT_1): Target(4),
    ("accept", HOLDFAST, CPU): Target(0.5),
    ("jobs", HOLDFAST, RATE): _least(400),
    ("waiting", HOLDFAST, background.RSS): Target(250),
    ("memory", HOLDFAST, memory.AT_REST): Target(120),
    ("memory", HOLDFAST, memory.PER_STREAM): Target(20),
}
"""By scenario, series and figure. A target is told beside the figure and stops nothing."""
