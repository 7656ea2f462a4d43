"""Trees of a thousand responses, made of one that was really created: so many would take too long."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from app import ids

COUNT = 1000


async def deepen(database_url: str, root: UUID) -> list[UUID]:
    """A chain of so many responses on this one; all of it."""
    chain = [root, *(ids.new_uuid() for _ in range(COUNT))]
    places = [
        {"id": key, "chain_id": root, "previous_id": chain[depth - 1], "seq": depth}
        for depth, key in enumerate(chain)
    ]
    await _put(database_url, root, places[1:])
    return chain


async def widen(database_url: str, parent: UUID) -> list[UUID]:
    """So many responses that follow this first one, each on a line of its own."""
    children = [ids.new_uuid() for _ in range(COUNT)]
    fork = {"fork_chains": [parent], "fork_seqs": [0]}
    places = [{"id": key, "chain_id": key, "previous_id": parent, "seq": 1, **fork} for key in children]
    await _put(database_url, parent, places)
    return children


async def _put(database_url: str, root: UUID, places: Sequence[Mapping[str, Any]]) -> None:
    """Copies of a response at other places, with their facts."""
    connection: Any = await asyncpg.connect(database_url)
    try:
        row = dict(await connection.fetchrow("select * from responses where id = $1", root))
        fact = dict(await connection.fetchrow("select * from response_facts where id = $1", root))
        await _copy(connection, "responses", [{**row, **place} for place in places])
        facts = [
            {**fact, "id": place["id"], "previous_id": place["previous_id"], "depth": place["seq"]}
            for place in places
        ]
        await _copy(connection, "response_facts", facts)
    finally:
        await connection.close()


async def _copy(connection: Any, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.copy_records_to_table(
        table, columns=list(rows[0]), records=[tuple(row.values()) for row in rows]
    )
