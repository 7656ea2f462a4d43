"""What is for every tenant does nothing as one, and no statement that names a tenant is left out."""

import importlib
import pkgutil
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta

import asyncpg
import pytest

import app.store
from app.domain import keys as domain_keys
from app.domain.conversation import Lock
from app.domain.idempotency import KeyClaim
from app.domain.jobs import Claim
from app.domain.tenancy import Caller, Scope
from app.domain.turn import Turn
from app.domain.webhooks import Standing
from app.store import (
    audit,
    conversation_locks,
    events,
    fairness,
    idempotency,
    keys,
    leases,
    lifecycle,
    sessions,
    upkeep,
    webhook_claims,
    webhook_deliveries,
)
from app.store.db import Database, SystemTx
from app.store.statements import Statement
from app.store.tables import TENANT_ROLE, TENANT_SETTING
from tests.store.looks import enqueue, running
from tests.store.looks_at_conversations import HOLDER, here, talking
from tests.store.looks_at_trails import OF_THE_LEDGER, recorded
from tests.store.looks_at_webhooks import unhooked
from tests.store.looks_without_conditions import (
    ALL,
    KEY,
    MAKERS,
    Careless,
    Maker,
    held,
    stripped,
    undone,
    with_key,
)
from tests.store.turns import a_turn, add


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    """A database of its own: without conditions and policies these tests read whatever others have left."""
    return quiet_database_url


async def claim(tx: SystemTx, _: Turn, __: Caller) -> object:
    return await lifecycle.claim(tx, owner="me", lease_seconds=60)


async def claim_of_tenant(tx: SystemTx, _: Turn, owner: Caller) -> object:
    how = {"owner": "me", "lease": timedelta(seconds=60), "max_running": 99}
    return await tx.fetch(lifecycle._claim_of_tenant, turn_of=owner.tenant_id, **how)


async def take_turn(tx: SystemTx, _: Turn, __: Caller) -> object:
    return await fairness.take_turn(tx, last_tenant_id=0, max_running=99)


async def queued(db: Database, caller: Caller) -> Turn:
    turn = a_turn()
    async with db.begin(caller) as tx:
        assert await enqueue(tx, turn)
    return turn


async def renew_key(tx: SystemTx, turn: Turn, owner: Caller) -> object:
    claims = [KeyClaim(owner.tenant_id, "key", turn.id)]
    return await idempotency.renew(tx, claims, lease_seconds=900)


async def write_events(tx: SystemTx, turn: Turn, owner: Caller) -> object:
    return await events.append(tx, [events.Batch(Claim(owner.tenant_id, turn.id, 1), 9, b"event: x\n\n")])


async def renew_run(tx: SystemTx, turn: Turn, owner: Caller) -> object:
    return await leases.renew(tx, [Claim(owner.tenant_id, turn.id, 1)], lease_seconds=900)


async def renew_lock(tx: SystemTx, turn: Turn, owner: Caller) -> object:
    lock = Lock(owner.tenant_id, here(turn), HOLDER)
    return await conversation_locks.renew(tx, [lock], lease_seconds=900)


def forbidden(work: Callable[[SystemTx, Turn], Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """What the role may not do at all."""

    async def tried(tx: SystemTx, turn: Turn, _: Caller) -> object:
        try:
            async with tx.savepoint():
                return await work(tx, turn)
        except asyncpg.InsufficientPrivilegeError:
            return None

    return tried


def begin_session(tx: SystemTx, turn: Turn) -> Awaitable[object]:
    day = timedelta(days=1)
    return sessions.create(tx, b"hash", tenant_id=1, key_id=turn.id, lifetime=day)


async def make_key(tx: SystemTx, _: Turn, owner: Caller) -> object:
    key = domain_keys.mint()
    try:
        async with tx.savepoint():
            await keys.create(tx, key, tenant_id=owner.tenant_id, scopes=Scope.ADMIN)
    except asyncpg.InsufficientPrivilegeError:
        return None
    return key


def claim_delivery(tx: SystemTx, _: Turn) -> Awaitable[object]:
    room = webhook_claims.Room(Standing.NEW, 9, 9, 9, {}, {})
    return webhook_claims.claim(tx, room, lease_seconds=60, give_up_seconds=3600)


async def gone(db: Database, caller: Caller) -> Turn:
    """An endpoint that has answered 410, while something waits for it."""
    turn = await unhooked(db, caller)
    async with db.begin(caller) as tx:
        await tx._driver.fetch("update webhook_endpoints set rests_until = 'infinity'")
    return turn


OF_THE_SYSTEM: dict[str, tuple[Maker, Callable[[SystemTx, Turn, Caller], Awaitable[object]], object]] = {
    "lifecycle._claim": (queued, claim, []),
    "lifecycle._claim_of_tenant": (queued, claim_of_tenant, []),
    "fairness._turn": (queued, take_turn, None),
    "idempotency._renew": (with_key, renew_key, set()),
    "lifecycle._lock_expired": (running, lambda tx, turn, owner: lifecycle.lock_expired(tx, limit=99), []),
    "events._append": (running, write_events, set()),
    "events._prune": (running, lambda tx, turn, owner: events.prune(tx, retention_seconds=0), None),
    "leases._renew": (running, renew_run, set()),
    "conversation_locks._renew": (talking, renew_lock, set()),
    "upkeep._forget_ephemeral": (running, lambda tx, turn, owner: upkeep.forget_ephemeral(tx), None),
    "keys._create": (add, make_key, None),
    "keys._valid": (add, lambda tx, turn, owner: keys.find_valid(tx, [KEY.id]), {}),
    "audit._unsigned": (recorded, lambda tx, turn, owner: audit.unsigned(tx, age=timedelta()), []),
    "audit._trails": (recorded, lambda tx, turn, owner: audit.trails(tx), []),
    "audit._next_pending": (recorded, lambda tx, turn, owner: audit.next_pending(tx, -1), None),
    "audit._note_signing": (recorded, lambda tx, turn, owner: audit.note_signing(tx, [], "{}"), None),
    "sessions._create": (add, forbidden(begin_session), None),
    "sessions._find": (add, forbidden(lambda tx, turn: sessions.find(tx, b"hash")), None),
    "webhook_claims._claim": (unhooked, forbidden(claim_delivery), None),
    "webhook_deliveries._give_up": (gone, lambda tx, turn, owner: webhook_deliveries.give_up(tx), None),
    "keys._revoke": (add, lambda tx, turn, owner: keys.revoke(tx, KEY.id), None),
    "keys._list": (add, lambda tx, turn, owner: keys.list_all(tx), []),
}
"""Statements that are for every tenant, and have no condition: run by a request they do nothing either."""


@pytest.mark.parametrize("name", OF_THE_SYSTEM)
async def test_what_is_for_every_tenant_does_nothing_as_one(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    maker, look, nothing = OF_THE_SYSTEM[name]
    turn = await maker(db, caller)
    async with undone(db, None) as tx:
        await keys.create(tx, KEY, tenant_id=caller.tenant_id, scopes=Scope.READ)
        before = await held(tx, caller)
        await tx._driver.fetch(
            "select set_config('role', $1, true), set_config($2, $3, true), set_config('row_security', 'on', true)",
            TENANT_ROLE,
            TENANT_SETTING,
            str(stranger.tenant_id),
        )
        assert await look(tx, turn, caller) == nothing
        assert await held(tx, caller) == before


def statements() -> dict[str, Statement]:
    """Every statement of the store in which a tenant is named, by module and name."""
    found = dict[str, Statement]()
    for info in pkgutil.iter_modules(app.store.__path__):
        module = importlib.import_module(f"app.store.{info.name}")
        for name, value in vars(module).items():
            found |= dict(within(f"{info.name}.{name}", value))
    return {name: statement for name, statement in found.items() if "tenant_id" in statement.sql}


def within(name: str, value: object) -> Iterator[tuple[str, Statement]]:
    if isinstance(value, Statement):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from within(f"{name}[{key}]", each)
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from within(f"{name}[{place}]", each)


async def test_every_statement_that_names_a_tenant_is_among_them(db: Database, caller: Caller) -> None:
    asked = set[int]()
    for name, (look, _) in (ALL | OF_THE_LEDGER).items():
        turn = await MAKERS[name](db, caller)
        async with undone(db, None if name in OF_THE_LEDGER else caller) as tx:
            careless = Careless(tx._driver, caller.tenant_id)
            await look(careless, turn)
            asked |= {id(statement) for statement in careless.asked}
    left = {name for name, statement in statements().items() if id(statement) not in asked}
    assert left == set(OF_THE_SYSTEM)


def test_no_condition_is_overlooked() -> None:
    """What a tenant's statement compares with is either its own parameter or another column."""
    for name, statement in statements().items():
        kept = re.findall(r"tenant_id (?:=|in|<>|!=) *(\S+)", stripped(statement.sql), re.IGNORECASE)
        assert all(re.fullmatch(r"\w+\.tenant_id\W*", other) for other in kept), (name, kept)
