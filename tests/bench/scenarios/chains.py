"""Create on a history: chains of four depths, and conversations of 1,000 items.

A response that is chained on a tip moves it, so each chain serves for a tenth of its depth at most, and
what a span has appended is taken away after it.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import sub, truediv
from uuid import UUID

import orjson
import uvloop

from app import ids
from app.store import lineage
from tests.bench import pgbench
from tests.bench.answers import Script
from tests.bench.exchanges import CREATE, body, is_completed
from tests.bench.filling import write_chains, write_conversations
from tests.bench.http_load import Client, Connection
from tests.bench.measuring import HOLDFAST, Against, Series, Setup, percent
from tests.bench.spans import CPU, P50, RATE, Bench, Figures, Span
from tests.bench.stack import Stack

CHARACTERS = 900
"""With its id, type and role around it, an item of this much text has about 1 KB."""
SCRIPT = Script(characters=CHARACTERS)
CLIENTS = 16
POOLS = {1: (1600, 1), 10: (800, 1), 100: (64, 10), 1000: (16, 100)}
"""By depth: how many chains there are, and how often one is gone on with in a span."""
BRIEF = {1: (16, 1), 10: (16, 1), 100: (4, 4), 1000: (1, 4)}

ALONE, UPSTREAM = "depth 1,000, one client", "upstream alone, the bytes of depth 1,000, one client"
CPU_OF_FIRST, OWN_PART = "CPU / depth 1, x", "own part, ms"

TURNS = 500
SAME_BYTES = "upstream alone, the same bytes"


class Tips:
    """The ends of some chains, gone on with by whoever is free."""

    def __init__(self, tips: Sequence[UUID], uses: int) -> None:
        self._tips = tips
        self._uses = uses
        self._left: deque[UUID] = deque()

    def refill(self) -> None:
        self._left = deque(self._tips)

    async def each(self, client: Client) -> None:
        """Go on with chains until the time is up, or no chain is left."""
        while self._left and not client.is_over:
            last = ids.response_id(self._left.popleft())
            for _ in range(self._uses):
                answer = await client.ask("POST", CREATE, _body(previous_response_id=last))
                last = orjson.loads(answer)["id"]
                if client.is_over:
                    return


def _body(**parameters: str) -> bytes:
    return body(SCRIPT, characters=CHARACTERS, **parameters)


def _name(depth: int) -> str:
    return f"depth {depth:,}"


def _read_name(depth: int) -> str:
    return f"pgbench, the read of depth {depth:,}"


@contextmanager
def chaining(bench: Bench) -> Generator[Setup]:
    stack, pools = bench.stack, BRIEF if bench.is_brief else POOLS
    tips = {
        depth: uvloop.run(write_chains(stack.url, depth=depth, count=count))
        for depth, (count, _) in pools.items()
    }
    stack.settle_down()
    forget = _forgetting(stack)

    def chained(depth: int, clients: int) -> Span:
        some = Tips(tips[depth], pools[depth][1])
        ask = bench.holdfast(some.each, clients=clients, check=is_completed)
        return partial(_and_then, some.refill, ask, forget)

    def read(depth: int) -> Span:
        script = pgbench.sent_by(lambda tx: lineage.ancestry(tx, tips[depth][0]))
        return bench.postgres(script, clients=CLIENTS)

    sent = uvloop.run(_sent(stack, previous_response_id=ids.response_id(tips[1000][0])))
    forget()
    yield Setup(
        [
            *(Series(_name(depth), chained(depth, CLIENTS)) for depth in pools),
            Series(ALONE, chained(1000, 1)),
            Series(UPSTREAM, bench.upstream(("POST", CREATE, sent), clients=1, check=is_completed)),
            *(Series(_read_name(depth), read(depth), is_warmed=False) for depth in pools),
        ],
        [
            *(Against(CPU_OF_FIRST, CPU, _name(depth), _name(1), truediv) for depth in pools if depth > 1),
            Against(OWN_PART, P50, ALONE, UPSTREAM, sub),
            *(
                Against("rate / pgbench read, %", RATE, _name(depth), _read_name(depth), percent)
                for depth in pools
            ),
        ],
    )


@contextmanager
def conversing(bench: Bench) -> Generator[Setup]:
    stack, clients, turns = bench.stack, bench.few(CLIENTS, 2), bench.few(TURNS, 50)
    made = uvloop.run(write_conversations(stack.url, turns=turns, count=clients))
    stack.settle_down()
    forget = _forgetting(stack)

    async def each(client: Client) -> None:
        one = _body(conversation=ids.conversation_id(made[client.number]))
        await client.ask("POST", CREATE, one)
        while not client.is_over:
            await client.ask("POST", CREATE, one)

    def as_before() -> None:
        forget()
        stack.execute("update conversations set next_seq = $1", turns)

    sent = uvloop.run(_sent(stack, conversation=ids.conversation_id(made[0])))
    as_before()
    ask = bench.holdfast(each, clients=clients, check=is_completed)
    alone = bench.upstream(("POST", CREATE, sent), clients=clients, check=is_completed)
    yield Setup(
        [
            Series(HOLDFAST, partial(_and_then, lambda: None, ask, as_before)),
            Series(SAME_BYTES, alone),
        ],
        [Against("rate / upstream alone, %", RATE, HOLDFAST, SAME_BYTES, percent)],
    )


def _and_then(before: Callable[[], None], ask: Span, after: Callable[[], None], seconds: float) -> Figures:
    before()
    try:
        return ask(seconds)
    finally:
        after()


def _forgetting(stack: Stack) -> Callable[[], None]:
    """Take away what comes after now: ids are in the order of time."""
    now = ids.new_uuid()

    def forget() -> None:
        stack.execute("delete from responses where id > $1", now)
        stack.execute("vacuum responses")

    return forget


async def _sent(stack: Stack, **parameters: str) -> bytes:
    """What the upstream is sent for such a create."""
    api, upstream = Connection(stack.api.base_url), Connection(stack.upstream.base_url)
    status, answer = await api.request("POST", CREATE, _body(**parameters))
    assert is_completed(status, answer), answer
    _, sent = await upstream.request("GET", "/v1/last")
    api.close()
    upstream.close()
    return sent
