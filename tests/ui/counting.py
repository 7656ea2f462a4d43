"""Days' counts as the ledger would have made them, for statistics of days that are over."""

from collections.abc import Sequence
from datetime import date

import asyncpg

from app.domain.facts import NANOS, duration_step
from app.domain.keys import Key
from app.domain.response import Status

Count = tuple[date, str, Status, int]
"""So many responses of a day, a model and a status."""

SECONDS, INPUT, OUTPUT, DOLLARS = 2, 100, 20, 0.5
"""What each of them took."""

_PUT = """
    insert into response_stats (tenant_id, day, model, status, duration_step, count, input_tokens,
        cached_tokens, output_tokens, reasoning_tokens, cost_nanos)
    select tenant_id, $2, $3, $4::int, $5, $6::bigint, $6 * $7::int, $6 * 10, $6 * $8::int, $6 * 5, $6 * $9::bigint
    from api_keys where id = $1
"""


async def put_counts(database_url: str, key: Key, counts: Sequence[Count]) -> None:
    """Add to what the key's tenant has."""
    step, cost = duration_step(SECONDS * 1000), round(DOLLARS * NANOS)
    rows = [
        (key.id, day, model, int(status), step, count, INPUT, OUTPUT, cost)
        for day, model, status, count in counts
    ]
    connection = await asyncpg.connect(database_url)
    try:
        await connection.executemany(_PUT, rows)
    finally:
        await connection.close()
