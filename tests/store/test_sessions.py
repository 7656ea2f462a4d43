"""Sessions of the page: one of a hash, until its time or its end; what is worth anything is asked of `keys`."""

from datetime import timedelta
from hashlib import sha256

import pytest

from app.domain.keys import mint
from app.domain.tenancy import Caller, Scope
from app.ids import new_uuid
from app.store import keys, sessions
from app.store.db import Database
from tests.background import execute

HOUR = timedelta(hours=1)


def a_hash() -> bytes:
    return sha256(new_uuid().bytes).digest()


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    """Keys would shut out those who have none."""
    return quiet_database_url


@pytest.fixture
async def key(db: Database, caller: Caller) -> Caller:
    """The test's own tenant, by a key."""
    made = mint()
    async with db.begin_system() as tx:
        await keys.create(tx, made, tenant_id=caller.tenant_id, scopes=Scope.READ, name="Ada's")
    return Caller(caller.tenant_id, made.id, Scope.READ)


async def begun(db: Database, key: Caller, lifetime: timedelta = HOUR) -> bytes:
    assert key.key_id
    hashed = a_hash()
    async with db.begin_system() as tx:
        await sessions.create(tx, hashed, tenant_id=key.tenant_id, key_id=key.key_id, lifetime=lifetime)
    return hashed


async def found(db: Database, hashed: bytes) -> sessions.Session | None:
    async with db.begin_system() as tx:
        return await sessions.find(tx, hashed)


async def test_a_session_is_found_by_its_hash_alone(db: Database, key: Caller) -> None:
    hashed, other = await begun(db, key), await begun(db, key)
    session = await found(db, hashed)
    assert session is not None
    assert (session.key_id, session.key_name) == (key.key_id, "Ada's")
    assert session.tenant
    assert await found(db, other)
    assert await found(db, a_hash()) is None
    assert await found(db, b"") is None


async def test_it_ends_when_it_is_ended(db: Database, key: Caller) -> None:
    hashed, other = await begun(db, key), await begun(db, key)
    for _ in range(2):
        async with db.begin_system() as tx:
            await sessions.end(tx, hashed)
    assert await found(db, hashed) is None
    assert await found(db, other)


async def test_it_ends_by_the_clock_of_the_database(db: Database, key: Caller) -> None:
    assert await found(db, await begun(db, key, timedelta(seconds=-1))) is None


async def test_the_next_login_forgets_those_that_are_over(
    db: Database, key: Caller, database_url: str
) -> None:
    over = await begun(db, key, timedelta(seconds=-1))
    lasting = await begun(db, key)
    rows = await execute(database_url, "select hash from ui_sessions where hash = any($1)", [over, lasting])
    assert [row["hash"] for row in rows] == [lasting]
