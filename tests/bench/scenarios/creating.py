"""Create without a history, as JSON: the hot path by itself."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from operator import truediv

from app import ids
from app.domain.turn import Continuation, Turn
from app.store import lifecycle
from tests.bench import pgbench
from tests.bench.answers import Script, text
from tests.bench.exchanges import INPUT_CHARACTERS, create, is_completed
from tests.bench.measuring import HOLDFAST, Against, Series, Setup, percent
from tests.bench.spans import CPU, RATE, Bench
from tests.bench.storage import turn

SCRIPT = Script()
INSERT, SELECT_1, NO_OP, UPSTREAM = (
    "pgbench, the same insert",
    "pgbench, SELECT 1",
    "no-op route",
    "upstream alone",
)
RATE_OF_INSERT = "rate / pgbench insert, %"


@contextmanager
def creating(bench: Bench, *, clients: int) -> Generator[Setup]:
    request = create(SCRIPT)
    yield Setup(
        [
            Series(HOLDFAST, bench.holdfast(request, clients=clients, check=is_completed)),
            Series(INSERT, bench.postgres(_insert(), clients=clients), is_warmed=False),
            Series(SELECT_1, bench.postgres(pgbench.SELECT_1, clients=clients), is_warmed=False),
            Series(NO_OP, bench.nothing("POST", request[2], clients=clients)),
            Series(UPSTREAM, bench.upstream(request, clients=clients, check=is_completed)),
        ],
        [
            Against(RATE_OF_INSERT, RATE, HOLDFAST, INSERT, percent),
            Against("rate / no-op, %", RATE, HOLDFAST, NO_OP, percent),
            Against("CPU / pgbench insert, x", CPU, HOLDFAST, INSERT, truediv),
        ],
    )


def _insert() -> pgbench.Script:
    """What stores such a response, with ids made anew each time."""
    one = _turn()
    return pgbench.sent_by(lambda tx: lifecycle.append(tx, one), fresh=[one.id])


def _turn() -> Turn:
    said = iter([text(INPUT_CHARACTERS, seed=1), text(SCRIPT.characters)])
    one = turn(lambda: next(said), None)
    theirs = f"msg_{'0' * 40}"
    known = Continuation(upstream="canned", upstream_ids={ids.item_id("message", one.id, 1): theirs})
    return replace(one, model=SCRIPT.model, continuation=known)
