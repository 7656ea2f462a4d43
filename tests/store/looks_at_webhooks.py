"""Each function of the store that is for webhooks or prompts, applied to one."""

from collections.abc import Awaitable
from dataclasses import replace

from app import ids
from app.domain.prompts import Prompt
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.domain.webhooks import DeliveryClaim, Outcome, State
from app.store import (
    prompts,
    webhook_deliveries,
    webhook_endpoints,
)
from app.store.db import Database, Tx
from app.store.tables import OF_TENANTS
from app.store.webhook_endpoints import Changes
from tests.store.looks import Look
from tests.store.turns import a_turn


async def hooked(db: Database, caller: Caller) -> Turn:
    """A turn whose id is also that of an endpoint, and of an event that is being delivered there."""
    turn = a_turn()
    async with db.begin_system() as tx:
        await tx._driver.execute(
            f"""
            insert into webhook_endpoints (tenant_id, id, event_types, name, url, secret_hint, secret)
            values ({caller.tenant_id}, '{turn.id}', '{{response.completed}}', 'n', 'https://x', 'h', 's');
            insert into webhook_deliveries (tenant_id, endpoint_id, event_id, event_type, attempt, tries)
            values ({caller.tenant_id}, '{turn.id}', '{turn.id}', 'response.completed', 1, 1);
            insert into webhook_attempts (tenant_id, endpoint_id, event_id, attempt)
            values ({caller.tenant_id}, '{turn.id}', '{turn.id}', 1)
            """
        )
    return turn


async def unhooked(db: Database, caller: Caller) -> Turn:
    """The same with an attempt that has ended, so that it may be replayed."""
    turn = await hooked(db, caller)
    async with db.begin_system() as tx:
        await tx._driver.fetch("update webhook_attempts set ended_at = now() where event_id = $1", turn.id)
    return turn


async def hooks(db: Database, caller: Caller) -> list[object]:
    """All that is kept of this tenant's webhooks."""
    async with db.begin_system() as tx:
        return [
            await tx._driver.fetch(f"select * from {table} where tenant_id = $1", caller.tenant_id)
            for table in OF_TENANTS
            if table.startswith("webhook_")
        ]


async def create_endpoint(tx: Tx, _: Turn) -> bool:
    given = Changes("name", "https://example.com", ["response.failed"])
    made = await webhook_endpoints.create(tx, ids.new_uuid(), given, sealed=b"s", secret_hint="h", most=99)
    return made is not None


def delivering(tx: Tx, turn: Turn) -> DeliveryClaim:
    return DeliveryClaim(tx.tenant_id, turn.id, turn.id, 1)


OF_WEBHOOKS: dict[str, tuple[Look, object]] = {
    "webhook_endpoints.create": (create_endpoint, True),
    "webhook_endpoints.get": (lambda tx, turn: webhook_endpoints.get(tx, turn.id), None),
    "webhook_endpoints.page": (lambda tx, _: webhook_endpoints.page(tx, after=None, limit=9), []),
    "webhook_endpoints.update": (
        lambda tx, turn: webhook_endpoints.update(tx, turn.id, Changes(name="other")),
        None,
    ),
    "webhook_endpoints.rotate": (
        lambda tx, turn: webhook_endpoints.rotate(tx, turn.id, sealed=b"t", secret_hint="i", keeps_old=True),
        None,
    ),
    "webhook_endpoints.delete": (lambda tx, turn: webhook_endpoints.delete(tx, turn.id), False),
    "webhook_endpoints.target": (lambda tx, turn: webhook_endpoints.target(tx, turn.id), None),
    "webhook_deliveries.settle": (
        lambda tx, turn: webhook_deliveries.settle(
            tx,
            delivering(tx, turn),
            Outcome("delivered", 200),
            state=State.DELIVERED,
            pause_seconds=None,
            rest_seconds=1,
        ),
        False,
    ),
    "webhook_deliveries.hand_back": (
        lambda tx, turn: webhook_deliveries.hand_back(tx, delivering(tx, turn)),
        None,
    ),
    "webhook_deliveries.get": (lambda tx, turn: webhook_deliveries.get(tx, turn.id, turn.id), None),
    "webhook_deliveries.attempts_of": (
        lambda tx, turn: webhook_deliveries.attempts_of(tx, turn.id, turn.id),
        [],
    ),
    "webhook_deliveries.page": (
        lambda tx, turn: webhook_deliveries.page(tx, turn.id, limit=9, newest_first=True),
        [],
    ),
}
"""The same for an endpoint, to which an event is being delivered."""


OF_REPLAYS: dict[str, tuple[Look, object]] = {
    "webhook_deliveries.replay": (
        lambda tx, turn: webhook_deliveries.replay(tx, turn.id, turn.id),
        False,
    ),
}
"""The same for a delivery that waits."""


PROMPT = "pmpt_mine"


def prompt_of(turn: Turn) -> Prompt:
    """A prompt whose key is known from a turn; its id every tenant may have."""
    return Prompt(turn.id, PROMPT, "", {}, latest=1, pinned=None)


async def keep_prompt(tx: Tx, turn: Turn) -> bool:
    return await prompts.create(tx, replace(prompt_of(turn), key=ids.new_uuid()), {}) is not None


def change_prompt(tx: Tx, turn: Turn) -> Awaitable[object]:
    return prompts.update(tx, replace(prompt_of(turn), name="changed"))


OF_PROMPTS: dict[str, tuple[Look, object]] = {
    "prompts.create": (keep_prompt, True),
    "prompts.extend": (lambda tx, _: prompts.extend(tx, PROMPT, {}), None),
    "prompts.find": (lambda tx, _: prompts.find(tx, PROMPT), None),
    "prompts.is_deleted": (lambda tx, _: prompts.is_deleted(tx, PROMPT), None),
    "prompts.lock": (lambda tx, _: prompts.lock(tx, PROMPT), None),
    "prompts.update": (change_prompt, None),
    "prompts.delete": (lambda tx, _: prompts.delete(tx, PROMPT), None),
    "prompts.page": (lambda tx, _: prompts.page(tx, limit=9, newest_first=True, after=None), []),
    "prompts.versions": (
        lambda tx, turn: prompts.versions(tx, turn.id, limit=9, newest_first=True, after=None),
        [],
    ),
}
"""The same for a prompt."""


async def prompted(db: Database, caller: Caller) -> Turn:
    """The turn that names a prompt of two versions by its key."""
    turn = a_turn()
    async with db.begin(caller) as tx:
        await prompts.create(tx, prompt_of(turn), {"instructions": "secret"})
        await prompts.extend(tx, PROMPT, {})
    return turn


async def templates(db: Database, caller: Caller) -> list[object]:
    """What is kept of this tenant's prompts."""
    async with db.read(caller) as tx:
        return [
            await tx._driver.fetch(
                f"select * from {table} where tenant_id = $1 order by 2, 3, 4", caller.tenant_id
            )
            for table in ("prompts", "prompt_versions")
        ]
