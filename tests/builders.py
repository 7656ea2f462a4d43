"""Values for tests, with honest defaults: what a request would really have become."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import asyncpg

from app.api.create import to_draft
from app.domain.context import Context
from app.domain.response import Draft
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.generation import engine
from app.generation.accept import DEFAULT_TERMS, accept
from app.generation.composer import Composer
from app.generation.engine import Run
from app.generation.feed import Feed
from app.generation.history import Terms
from app.generation.keeping import NewRow
from app.providers.base import Provider
from app.store import responses, search
from app.store.db import Database
from app.store.entries import Entries
from app.store.responses import StoredResponse
from tests.scripted import ScriptedProvider, answer

MODEL = "a-model"


async def a_caller(database_url: str) -> Caller:
    """Another tenant than the test's own."""
    connection = await asyncpg.connect(database_url)
    try:
        statement = "insert into tenants (name) values (gen_random_uuid()::text) returning id"
        return Caller(await connection.fetchval(statement))
    finally:
        await connection.close()


def a_draft(**params: Any) -> Draft:
    """The draft of a create with these parameters."""
    return to_draft({"model": MODEL, "input": "Hi", **params})


async def a_run(
    db: Database,
    caller: Caller,
    provider: Provider,
    draft: Draft | None = None,
    *,
    terms: Terms = DEFAULT_TERMS,
    **changes: Any,
) -> Run:
    """The accepted draft, ready to run, with a feed if it asked for a stream; `changes` are fields of `Run`."""
    draft = draft or a_draft()
    accepted = await accept(db, caller, draft, terms)
    draft = accepted.draft
    feed = Feed() if draft.is_streamed else None
    run = Run(
        provider=provider,
        accepted=accepted,
        context=Context(
            model=draft.model,
            items=accepted.items(provider.name),
            params=draft.params,
            is_streamed=draft.is_streamed,
        ),
        composer=Composer(draft, is_heard=feed is not None),
        keeper=NewRow(db, Entries(db, max_queued=9), caller, accepted, provider.name),
        listener=feed,
        max_run_seconds=60,
    )
    return replace(run, **changes)


async def a_response(
    db: Database,
    caller: Caller,
    *steps: Any,
    provider: Provider | None = None,
    params: Mapping[str, Any] | None = None,
) -> Composer:
    """A finished response: stored, unless the parameters forbid it. Without steps it says a few words."""
    provider = provider or ScriptedProvider(steps or answer(), db=db)
    return await engine.run(await a_run(db, caller, provider, a_draft(**(params or {}))))


async def all_stored(db: Database, caller: Caller) -> Sequence[StoredResponse]:
    """Every row of this tenant's that is not deleted, oldest first."""
    async with db.begin(caller) as tx:
        page = await search.find_whole(tx, Filters(), limit=100, newest_first=False)
    return page.found


async def stored(db: Database, caller: Caller, draft: Draft) -> StoredResponse | None:
    """The row of this draft, as a reader of this tenant would find it."""
    async with db.read(caller) as tx:
        return await responses.get(tx, draft.id)
