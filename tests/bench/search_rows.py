"""Stored responses by the million, with the facts, terms, words and counts that the ledger would make of them.

    corpus = await load(connection, 1_000_000)

Two tenants use the same words; all but a few rows are the first one's. Rows come in the order of time, as
they would have been stored. What the filters are measured with is planted: see `Corpus`, and `search_words`.
The same arguments make the same rows but for the time at which they end, which is now.
"""

import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import orjson

from app import ids
from app.domain.echo import echo
from app.domain.gates import Gated
from app.domain.items import InputItems
from app.domain.jobs import Mode
from app.domain.response import TERMINAL, Draft, Status, snapshot
from app.store import facts
from app.store.codec import CODEC, compress
from app.store.db import Tx
from app.store.lineage import encode
from app.store.timed_words import words_of
from tests.bench.search_trees import Growth, Standing
from tests.bench.search_words import Speaker

_T = TypeVar("_T")

CHUNK = 20_000
UNSORTED = 100
"""So many come after the indexes, and are not sorted into that of the words yet: as many as there can be."""
DAYS = 90
SMALL_SHARE = 0.03
"""Of the rows that are the second tenant's."""

MODELS = {
    "gpt-5.4": 0.45, "gpt-5.4-mini": 0.25, "llama-4": 0.15, "qwen-3": 0.1, "o5": 0.045, "gpt-5.4-pro": 0.005,
}  # fmt: skip
LOCAL_MODEL = "qwen-3"
RETIRED = "gpt-4"
"""In the first tenth of the time a tenth are of this model, and none later."""
STATUSES = {
    Status.COMPLETED: 0.965, Status.INCOMPLETE: 0.01, Status.FAILED: 0.02, Status.CANCELLED: 0.005,
}  # fmt: skip
ERRORS = {"server_error": 0.7, "rate_limit_exceeded": 0.25, "invalid_prompt": 0.05}
TOOLS = {f"tool_{n}": 1 / n for n in range(1, 31)}
TIERS = {"production": 0.9, "staging": 0.08, "development": 0.02}
USERS = 20_000

_COLUMNS = (
    "tenant_id", "id", "chain_id", "previous_id", "finished_at", "seq", "input_count", "output_count",
    "input_bytes", "status", "codec", "input_gated", "output_gated", "model", "fork_chains", "fork_seqs",
    "body", "items", "mode", "attempt", "lease_until", "queued_at", "conversation_id", "request",
)  # fmt: skip
_STAGED = ("tenant_id", "id", "text", "own")
_STAGE = "create temp table if not exists staged_words (tenant_id bigint, id uuid, text text, own text)"
_PUT_WORDS = """
    insert into response_words (tenant_id, id, words)
    select tenant_id, id, to_tsvector('simple', text) || array_to_tsvector(string_to_array(own, ' '))
    from staged_words
"""
_INDEXES = """
    select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as sql from pg_index
    where indrelid = any('{response_facts,response_terms,response_words}'::regclass[]) and not indisprimary
"""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is there to be found."""

    tenants: tuple[int, int]
    begin: datetime
    end: datetime
    some: Sequence[UUID]
    """A thousand responses of the first tenant's, spread over the time, oldest first."""
    growth: Growth
    """Of the first tenant."""
    conversation: UUID
    """The longest of the first tenant's."""


class Maker:
    """Makes rows in the order of time."""

    def __init__(self, count: int, tenants: tuple[int, int], seed: int) -> None:
        """Make nothing yet."""
        self._rng = random.Random(seed)
        self._speaker = Speaker(self._rng)
        self._count, self._tenants = count, tenants
        self._end_ms = int(time.time() * 1000) - 3_600_000
        self._begin_ms = self._end_ms - DAYS * 86_400_000
        self.growth = {tenant: Growth(self._rng, min(2000, count // 20 + 1)) for tenant in tenants}
        self.some: list[UUID] = []
        self.turns: dict[UUID, int] = {}
        """How many turns the first tenant's conversations have."""
        self._users = [f"user-{n}" for n in range(USERS)]
        self._user_weights = list(itertools.accumulate(1 / (n + 50) for n in range(USERS)))
        self._is_main = True

    @property
    def range(self) -> tuple[datetime, datetime]:
        begin, end = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (self._begin_ms, self._end_ms))
        return begin, end

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows as the ledger reads them, and all their columns."""
        step = (self._end_ms - self._begin_ms) / self._count
        for number in range(self._count):
            millis = self._begin_ms + int((number + self._rng.random()) * step)
            new_id = UUID(int=millis << 80 | 7 << 76 | 2 << 62 | self._rng.getrandbits(62))
            tenant_id = self._tenants[self._rng.random() < SMALL_SHARE]
            self._is_main = tenant_id == self._tenants[0]
            if self._is_main and number % max(1, self._count // 1000) == 0:
                self.some.append(new_id)
            yield {"tenant_id": tenant_id, **self._row(tenant_id, new_id, number / self._count)}

    def _row(self, tenant_id: int, new_id: UUID, share: float) -> dict[str, Any]:
        is_background = self._rng.random() < 0.1
        status, model = self._pick(STATUSES), self._pick(MODELS)
        if share < 0.1 and self._rng.random() < 0.1:
            model = RETIRED
        if is_background and share > 0.999:
            status = self._rng.choice((Status.QUEUED, Status.IN_PROGRESS, status))
        standing = self.growth[tenant_id].stand(new_id, status)
        if standing.conversation and self._is_main:
            self.turns[standing.conversation] = self.turns.get(standing.conversation, 0) + 1
        given, made = self._items(new_id, share, status, is_local=model == LOCAL_MODEL)
        body = self._body(new_id, model, status, standing, is_background=is_background)
        return {
            "id": new_id,
            "previous_id": standing.previous,
            "conversation_id": standing.conversation,
            **encode(standing.place),
            **self._progress(new_id, status, is_background=is_background),
            "codec": CODEC,
            "model": model,
            "input_count": 1,
            "output_count": len(made),
            "input_bytes": len(given),
            "input_gated": 0,
            "output_gated": 0,
            "body": compress(body),
            "items": compress(b",".join([given, *made])),
        }

    def _progress(self, new_id: UUID, status: Status, *, is_background: bool) -> dict[str, Any]:
        created, is_over = datetime.fromtimestamp((new_id.int >> 80) / 1000, UTC), status in TERMINAL
        took = timedelta(seconds=min(3000.0, self._rng.lognormvariate(1.0, 1.0)))
        attempts = self._rng.choices((1, 2, 3), (0.95, 0.04, 0.01))[0]
        return {
            "status": int(status),
            "status_before": None,
            "deleted_at": None,
            "mode": int(Mode.BACKGROUND if is_background else Mode.FOREGROUND),
            "attempt": attempts if is_background and status is not Status.QUEUED else 0,
            "finished_at": created + took if is_over else None,
            "lease_until": created + timedelta(days=1) if status is Status.IN_PROGRESS else None,
            "queued_at": created if is_background else None,
            "request": None if is_over else compress(b"{}"),
        }

    def _items(
        self, new_id: UUID, share: float, status: Status, *, is_local: bool
    ) -> tuple[bytes, list[bytes]]:
        asked, answered = self._speaker.say(share, is_local=is_local)
        given = _message(new_id, 0, "user", {"type": "input_text", "text": asked})
        if status not in {Status.COMPLETED, Status.INCOMPLETE}:
            return given, []
        answer = {"type": "output_text", "text": answered, "annotations": [], "logprobs": []}
        made = [_message(new_id, 1, "assistant", answer)]
        if self._rng.random() < 0.15:
            made.append(_call(new_id, 2, self._pick(TOOLS), self._rng.getrandbits(20)))
        return given, made

    def _body(
        self, new_id: UUID, model: str, status: Status, standing: Standing, *, is_background: bool
    ) -> bytes:
        params: dict[str, Any] = {"background": is_background, "metadata": self._metadata()}
        if standing.previous:
            params["previous_response_id"] = ids.response_id(standing.previous)
        if standing.conversation:
            params["conversation"] = ids.conversation_id(standing.conversation)
        if self._rng.random() < 0.9:
            params["user"] = self._rng.choices(self._users, cum_weights=self._user_weights)[0]
            if self._rng.random() < 0.5:
                params["safety_identifier"] = "safe-" + params["user"]
        draft = Draft(new_id, model, params, InputItems([], b"", Gated.NONE), echo(params, model=model))
        taken, given = self._rng.randrange(20, 3000), self._rng.randrange(10, 1000)
        usage = {"input_tokens": taken, "output_tokens": given, "cost": (taken + 4 * given) / 1e6}
        error = {"code": self._pick(ERRORS), "message": "It failed."}
        return orjson.dumps(snapshot(draft, status=status, usage=usage, error=error))

    def _metadata(self) -> dict[str, str]:
        if self._rng.random() < 0.6:
            return {}
        found = {"tier": self._pick(TIERS), "team": f"team-{self._rng.randrange(50)}"}
        return found | ({"ticket": f"T-{self._rng.getrandbits(40)}"} if self._rng.random() < 0.03 else {})

    def _pick(self, weights: Mapping[_T, float]) -> _T:
        return self._rng.choices([*weights], [*weights.values()])[0]


def _message(new_id: UUID, place: int, role: str, part: Mapping[str, Any]) -> bytes:
    name = ids.item_id("message", new_id, place)
    return orjson.dumps(
        {"id": name, "type": "message", "status": "completed", "role": role, "content": [part]}
    )


def _call(new_id: UUID, place: int, name: str, number: int) -> bytes:
    head = {"id": ids.item_id("function_call", new_id, place), "type": "function_call", "status": "completed"}
    return orjson.dumps({**head, "call_id": f"call_{number}", "name": name, "arguments": f'{{"n":{number}}}'})


async def load(connection: Any, count: int, *, seed: int = 7, is_grown: bool = False) -> Corpus:
    """Fill an empty database's tables, and have the planner know them.

    Args:
        connection: asyncpg's own, as the owner of the tables.
        count: rows of both tenants.
        is_grown: leave the indexes in place, which takes far longer and makes them as large as they
            become in use.
    """
    new_tenant = "insert into tenants (name) values (gen_random_uuid()::text) returning id"
    tenants = await connection.fetchval(new_tenant), await connection.fetchval(new_tenant)
    made = Maker(count, tenants, seed)
    indexes = [] if is_grown else await connection.fetch(_INDEXES)
    for index in indexes:
        await connection.execute(f"drop index {index['name']}")
    await connection.execute(_STAGE)
    await connection.execute("set maintenance_work_mem = '512MB'")
    rows = made.rows()
    older = itertools.islice(rows, count - UNSORTED)
    while chunk := list(itertools.islice(older, CHUNK)):
        await _copy(connection, chunk)
    for index in indexes:
        await connection.execute(index["sql"])
    await connection.execute("vacuum (analyze)")
    await _copy(connection, list(rows))
    longest = max(made.turns, key=made.turns.__getitem__)
    return Corpus(tenants, *made.range, made.some, made.growth[tenants[0]], longest)


async def _copy(connection: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows, and what the ledger makes of each."""
    async with connection.transaction():
        await _copy_all(connection, rows)


async def _copy_all(connection: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    await _put(connection, "responses", _COLUMNS, ([row[name] for name in _COLUMNS] for row in rows))
    found = [(row["tenant_id"], facts._found(row, {})) for row in rows]
    columns = ("tenant_id", *(column.name for column in facts._COLUMNS))
    values = ({"tenant_id": tenant_id, **facts._values(each, None)} for tenant_id, each in found)
    await _put(connection, "response_facts", columns, ([value[name] for name in columns] for value in values))
    terms = ([tenant_id, each.id, *map(_plain, term)] for tenant_id, each in found for term in each.terms)
    await _put(connection, "response_terms", ("tenant_id", "id", "kind", "name", "value"), terms)
    await connection.execute("truncate staged_words")
    texts = ([owner, each.id, each.text, " ".join(words_of(owner, each.id))] for owner, each in found)
    await _put(connection, "staged_words", _STAGED, texts)
    await connection.execute(_PUT_WORDS)
    for tenant_id in sorted({tenant_id for tenant_id, _ in found}):
        ended = [each for owner, each in found if owner == tenant_id and each.is_first_seen_ended]
        await facts.count(Tx(connection, tenant_id), ended)


async def _put(connection: Any, table: str, columns: Sequence[str], records: Iterator[Sequence[Any]]) -> None:
    await connection.copy_records_to_table(table, columns=columns, records=map(tuple, records))


def _plain(value: Any) -> Any:
    """An enumeration as its number: COPY looks at types."""
    return int(value) if isinstance(value, int) else value
