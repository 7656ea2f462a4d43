"""What an auditor reads over HTTP."""

import asyncio
from base64 import b64encode
from contextlib import ExitStack
from typing import Any

import httpx2
import orjson

from app import ids
from app.domain.keys import Key
from app.domain.tenancy import Scope
from tests.background import execute
from tests.keys import client_with, new_key
from tests.live import LiveServer
from tests.trails import behind_the_trigger
from tests.waiting import wait_until

Json = dict[str, Any]

AUDIT = "/v1/audit"
RECORDS, CHECKPOINTS, VERIFICATION = f"{AUDIT}/records", f"{AUDIT}/checkpoints", f"{AUDIT}/verification"


SEAL_KEY = b64encode(bytes(32)).decode()


class Tenant:
    """A tenant of one test's own, and clients with keys of all kinds."""

    def __init__(self, server: LiveServer, database_url: str, clients: ExitStack) -> None:
        self.name = ids.request_id()
        self.keys = dict[Scope, Key]()
        self.database_url = database_url
        self._server = server
        self._clients = clients

    def __getitem__(self, scope: Scope) -> httpx2.Client:
        """A client whose key has this scope."""
        key = self.keys[scope] = asyncio.run(new_key(self.database_url, self.name, scope))
        return self._clients.enter_context(client_with(self._server, key))

    @property
    def id(self) -> int:
        [row] = asyncio.run(execute(self.database_url, "select id from tenants where name = $1", self.name))
        return row["id"]

    def key_id(self, scope: Scope) -> str:
        return ids.key_id(self.keys[scope].id)


def listed(auditor: httpx2.Client, **asked: Any) -> list[Json]:
    """The records, without those of reading the trail, in the order of the trail."""
    answer = auditor.get(RECORDS, params={"order": "asc", "limit": 100, **asked})
    assert answer.status_code == 200, answer.text
    return [record for record in answer.json()["data"] if record["action"] != "audit.read"]


def told(auditor: httpx2.Client, **asked: Any) -> list[tuple[str, str | None, Json]]:
    return [
        (record["action"], record["subject"], orjson.loads(record["data"]))
        for record in listed(auditor, **asked)
    ]


def until_told(auditor: httpx2.Client, count: int, **asked: Any) -> list[Json]:
    """The records, once there are so many: reads are noted a little later."""
    wait_until(lambda: len(listed(auditor, **asked)) >= count)
    return listed(auditor, **asked)


def until(auditor: httpx2.Client, action: str) -> list[Json]:
    """The records of a kind, once there is one."""
    found = list[Json]()

    def look() -> bool:
        found.extend(auditor.get(RECORDS, params={"action": action, "order": "asc"}).json()["data"])
        return bool(found)

    wait_until(look)
    return found[:1]


def tamper(tenant: Tenant, statement: str) -> None:
    asyncio.run(_tamper(tenant.database_url, statement, tenant.id))


async def _tamper(database_url: str, statement: str, tenant_id: int) -> None:
    async with behind_the_trigger(database_url) as connection:
        done = await connection.execute(statement, tenant_id)
        assert not done.endswith(" 0")


AGED = "update audit_heads set checkpoint_at = checkpoint_at - interval '1 day' where tenant_id = $1"
