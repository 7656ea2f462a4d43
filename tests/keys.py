"""Keys for tests, made as the command makes them, and servers on databases that have some."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import httpx2

from app.domain.dialects import Dialect
from app.domain.keys import Key, mint
from app.domain.tenancy import Scope
from app.store import keys, tenants
from app.store.db import Database, SystemTx
from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS

_T = TypeVar("_T")

IMPATIENT = {"HOLDFAST_KEY_CACHE_SECONDS": "0.1"}
"""For servers whose keys change under them."""


async def new_key(
    database_url: str,
    tenant: str,
    scopes: Scope = Scope.WRITE,
    *,
    lifetime: timedelta | None = None,
    models: Sequence[str] | None = None,
    dialect: Dialect | None = None,
) -> Key:
    key = mint()

    async def create(tx: SystemTx) -> None:
        tenant_id = await tenants.find_or_create(tx, tenant)
        if models is not None:
            await tenants.set_models(tx, tenant_id, models)
        await keys.create(tx, key, tenant_id=tenant_id, scopes=scopes, lifetime=lifetime, dialect=dialect)

    await in_system(database_url, create)
    return key


async def in_system(database_url: str, work: Callable[[SystemTx], Awaitable[_T]]) -> _T:
    db = await Database.connect(database_url, size=1)
    try:
        async with db.begin_system() as tx:
            return await work(tx)
    finally:
        await db.close()


async def revoke(database_url: str, key: Key) -> None:
    async def end(tx: SystemTx) -> None:
        assert await keys.revoke(tx, key.id)

    await in_system(database_url, end)


def client_with(server: LiveServer, key: Key | str | None) -> httpx2.Client:
    """A client that sends this key, or none."""
    text = key.text if isinstance(key, Key) else key
    headers = {} if text is None else {"authorization": f"Bearer {text}"}
    return httpx2.Client(
        base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE_SECONDS, headers=headers
    )
