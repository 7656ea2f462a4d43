"""The wall beneath the conditions: a statement that forgets its tenant still reads and changes nothing."""

import pytest

from app.domain.tenancy import Caller
from app.store.db import Database
from tests.store.looks_without_conditions import ALL, MAKERS, REFUSED, Careless, held, undone

WITHOUT_CONTROL = {
    # They put a row of the caller's own, and have no condition to lose.
    "lifecycle.append", "lifecycle.append_each", "lifecycle.append_items", "lifecycle.enqueue", "entries.put_in_queue", "conversations.insert",
    "events.put", "items.name", "conversation_items.remove", "rate_limits.use", "idempotency.claim",
    "outbox.note", "outbox.note_many", "webhook_endpoints.create", "prompts.create",
    # The turn has nothing of the kind.
    "responses.shape", "whether an item was here", "responses that run", "responses by a tool",
    "records, newest first, by key_id", "records, oldest first, by key_id",
    # The view that stands for a policy is that of nobody to whoever acts for every tenant.
    "responses by their words",
    # Refused by what is granted, and by no policy.
    *REFUSED,
}  # fmt: skip


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    """A database of its own: without conditions and policies these tests read whatever others have left."""
    return quiet_database_url


@pytest.mark.parametrize("name", ALL)
async def test_without_its_conditions_it_finds_and_changes_nothing(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await MAKERS[name](db, caller)
    look, nothing = ALL[name]
    async with undone(db, None) as tx:
        before = await held(tx, caller)
    async with undone(db, stranger) as tx:
        assert await look(Careless(tx._driver, stranger.tenant_id), turn) == nothing
        assert await held(tx, caller) == before


@pytest.mark.parametrize("name", sorted(ALL.keys() - WITHOUT_CONTROL))
async def test_without_the_policy_it_would(db: Database, caller: Caller, stranger: Caller, name: str) -> None:
    """Else the test above would prove nothing."""
    turn = await MAKERS[name](db, caller)
    look, nothing = ALL[name]
    async with undone(db, None) as tx:
        before = await held(tx, caller)
        seen = await look(Careless(tx._driver, stranger.tenant_id), turn)
        assert seen != nothing or await held(tx, caller) != before
