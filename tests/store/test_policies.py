"""The wall beneath the conditions: a statement that forgets its tenant still reads and changes nothing."""

import importlib
import pkgutil
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

import app.store
from app import ids
from app.domain import keys as domain_keys
from app.domain.audit import Action
from app.domain.conversation import Lock
from app.domain.idempotency import KeyClaim
from app.domain.jobs import Claim
from app.domain.response import Status
from app.domain.search import Filters
from app.domain.tenancy import Caller, Scope
from app.domain.turn import Turn
from app.domain.webhooks import Standing
from app.errors import Unavailable
from app.store import (
    audit,
    conversation_items,
    conversation_locks,
    conversations,
    events,
    facts,
    fairness,
    idempotency,
    items,
    keys,
    leases,
    lifecycle,
    lineage,
    migrate,
    prompts,
    search,
    search_statements,
    sessions,
    stats,
    upkeep,
    webhook_claims,
    webhook_deliveries,
)
from app.store.db import Database, Row, SystemTx, Tx
from app.store.statements import Statement
from app.store.tables import OF_TENANTS, TENANT_ROLE, TENANT_SETTING, metadata
from tests.builders import a_caller
from tests.migrations.databases import fetch, logged_in, login_role
from tests.store.test_tenancy import (
    HOLDER,
    LOOKS,
    OF_CONVERSATIONS,
    OF_KEYS,
    OF_PROMPTS,
    OF_REPLAYS,
    OF_RUNS,
    OF_THE_LEDGER,
    OF_TRAILS,
    OF_WEBHOOKS,
    Look,
    days,
    enqueue,
    here,
    hooked,
    prompted,
    recorded,
    running,
    talking,
    unhooked,
)
from tests.store.turns import a_turn, add

CONDITION = re.compile(r"(?:\w+\.)?tenant_id = (\$\d+::\w+)")
"""A comparison with the tenant that a transaction brings; those of columns with each other are no filter."""


def stripped(sql: str) -> str:
    """The statement of somebody who forgot whose rows these are; its parameters keep their types."""
    return CONDITION.sub(r"(\1 is not null)", sql)


class Careless(Tx):
    """A transaction whose statements have lost every condition on the tenant; and which ones it was given."""

    __slots__ = ("asked",)

    def __init__(self, driver: Any, tenant_id: int) -> None:
        super().__init__(driver, tenant_id)
        self.asked = list[Statement]()

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        self.asked.append(statement)
        arguments = statement.arguments(values | {"tenant_id": self.tenant_id, "key_id": None})
        return await self._driver.fetch(stripped(statement.sql), *arguments)

    async def fetch_each(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> Sequence[Row]:
        return [found for row in rows for found in await self.fetch(statement, **row)]


@asynccontextmanager
async def undone(db: Database, caller: Caller | None) -> AsyncGenerator[Any]:
    """A transaction, for one tenant or for all, that leaves nothing behind."""
    async with db.read(caller) if caller else db.begin_system() as tx:
        transaction: Any = tx._driver.transaction()
        await transaction.start()
        try:
            yield tx
        finally:
            await transaction.rollback()


TABLES = [table for table in metadata.tables if table in OF_TENANTS]


async def held(tx: Tx | SystemTx, caller: Caller) -> list[object]:
    """All that the tables hold of a tenant, as whoever may see everything sees it."""
    await tx._driver.execute("reset role")
    return [
        await tx._driver.fetch(
            f"select * from {table} t where tenant_id = $1 order by t::text", caller.tenant_id
        )
        for table in TABLES
    ]


Maker = Callable[[Database, Caller], Awaitable[Turn]]
KEY = domain_keys.mint()

OTHERWISE: dict[str, tuple[Look, object]] = {
    "an ancestry of few tokens": (lambda tx, turn: lineage.ancestry(tx, turn.id, budget=9), None),
    "before, of few tokens": (
        lambda tx, turn: lineage.before(tx, turn.id, turn.place.next(), floor_tokens=0),
        None,
    ),
}
"""The statements that the looks above leave out: other orders, filters and budgets."""

OTHERWISE_TALKING: dict[str, tuple[Look, object]] = {
    "conversations, oldest first": (
        lambda tx, turn: conversations.page(tx, limit=9, newest_first=False, after=None, metadata={}),
        [],
    ),
    "conversations, newest first": (
        lambda tx, turn: conversations.page(tx, limit=9, newest_first=True, after=None, metadata={}),
        [],
    ),
    "conversations with metadata, oldest first": (
        lambda tx, turn: conversations.page(tx, limit=9, newest_first=False, after=None, metadata={"a": "b"}),
        [],
    ),
    "items, oldest first": (
        lambda tx, turn: conversation_items.page(tx, turn.place, after=None, newest_first=False, limit=9),
        [],
    ),
    "a reading of few tokens": (lambda tx, turn: conversation_locks.read(tx, here(turn), budget=9), None),
    "a lock with a reading of few tokens": (
        lambda tx, turn: conversation_locks.take(
            tx, Lock(tx.tenant_id, here(turn), ids.new_uuid()), lease_seconds=60, budget=9
        ),
        None,
    ),
    "an item by its client's id": (
        lambda tx, turn: tx.fetch(items._by_aliases, ids=["msg_mine"]),
        [],
    ),
    "whether an item was here": (
        lambda tx, turn: tx.fetch(
            conversation_items._was_here, conversation_id=here(turn), turn_id=turn.id, place=0
        ),
        [],
    ),
    "whether a turn is stored": (lambda tx, turn: tx.fetch(lifecycle._is_stored, id=turn.id), []),
    "whether a conversation is there": (lambda tx, turn: tx.fetch(lifecycle._is_alive, id=here(turn)), []),
    "attaching what ran in the background": (
        lambda tx, turn: tx.fetch(lifecycle._attach, id=turn.id, holder=HOLDER, conversation_id=here(turn)),
        [],
    ),
}


OTHERWISE_PROMPTED: dict[str, tuple[Look, object]] = {
    "prompts, oldest first": (
        lambda tx, _: prompts.page(tx, limit=9, newest_first=False, after=None),
        [],
    ),
    "versions of a prompt, oldest first": (
        lambda tx, turn: prompts.versions(tx, turn.id, limit=9, newest_first=False, after=None),
        [],
    ),
}


OTHERWISE_RECORDED: dict[str, tuple[Look, object]] = {
    **{
        f"records, {'newest' if newest else 'oldest'} first, by {by}": (
            lambda tx, turn, newest=newest, by=by, value=value: audit.page(
                tx, limit=9, newest_first=newest, by=by, value=turn.id if by == "subject" else value
            ),
            [],
        )
        for newest in (True, False)
        for by, value in (
            (None, None),
            ("action", Action.RESPONSE_CREATED),
            ("subject", None),
            ("key_id", KEY.id),
        )
    },
    "responses by all that is known, oldest first": (
        lambda tx, turn: search.find(
            tx, Filters(model=turn.model, is_background=False), limit=9, newest_first=False
        ),
        search.Page([], has_more=False),
    ),
    "all responses, oldest first": (
        lambda tx, _: search.recent(tx, limit=9, newest_first=False),
        search.Page([], has_more=False),
    ),
    "all responses": (lambda tx, _: search.find(tx, Filters(), limit=9), search.Page([], has_more=False)),
    "responses by their words": (
        lambda tx, _: search.find(tx, Filters(words="hi"), limit=9),
        search.Page([], has_more=False),
    ),
    "responses that run": (
        lambda tx, _: search.find(tx, Filters(status=Status.QUEUED), limit=9),
        search.Page([], has_more=False),
    ),
    "responses by a tool": (
        lambda tx, _: search.find(tx, Filters(tool="none"), limit=9),
        search.Page([], has_more=False),
    ),
    "a page of whole responses, oldest first": (
        lambda tx, turn: search.find_whole(tx, Filters(model=turn.model), limit=9, newest_first=False),
        search.Page([], has_more=False),
    ),
    "the oldest response": (lambda tx, _: tx.fetch(search_statements.ENDS[True]), []),
    "the newest response": (lambda tx, _: tx.fetch(search_statements.ENDS[False]), []),
    "what was recorded last": (
        lambda tx, _: tx.fetch(audit._last_recorded, action=Action.RESPONSE_CREATED, beginning="{"),
        [],
    ),
    "what has left no note": (
        lambda tx, _: tx.fetch(facts._adopt, floor=UUID(int=0), action=Action.RESPONSE_ADOPTED),
        [],
    ),
    "what has ended without a note": (
        lambda tx, _: tx.fetch(facts._adopt_ended, action=Action.RESPONSE_ADOPTED),
        [],
    ),
    "statistics by user": (lambda tx, turn: stats.groups(tx, days(turn), "user"), []),
}


OTHERWISE_TOLD: dict[str, tuple[Look, object]] = {
    "deliveries, oldest first": (
        lambda tx, turn: webhook_deliveries.page(tx, turn.id, limit=9, newest_first=False),
        [],
    ),
}


def refused(look: Look) -> Look:
    """A look that the role may not take."""

    async def looked(tx: Tx, turn: Turn) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tx._driver.transaction():
                await look(tx, turn)

    return looked


async def unnoted(db: Database, caller: Caller) -> Turn:
    """A turn of an earlier release: no note was left with it."""
    turn = await add(db, caller)
    async with db.begin_system() as tx:
        await tx._driver.fetch("delete from audit_outbox where subject = $1", turn.id)
    return turn


async def with_key(db: Database, caller: Caller) -> Turn:
    """A turn whose request has claimed an idempotency key, and runs."""
    turn = a_turn()
    claim_key, _ = OF_KEYS["idempotency.claim"]
    async with db.begin(caller) as tx:
        await claim_key(tx, turn)
    return turn


async def counted(db: Database, caller: Caller) -> Turn:
    """A turn of a tenant who has used something of its limits."""
    use, _ = LOOKS["rate_limits.use"]
    turn = a_turn()
    async with db.begin(caller) as tx:
        await use(tx, turn)
    return turn


async def ended_elsewhere(db: Database, caller: Caller) -> Turn:
    """A turn that an earlier release has ended: its facts do not know."""
    turn = await recorded(db, caller)
    async with db.begin_system() as tx:
        await tx._driver.execute(f"update response_facts set status = 0 where id = '{turn.id}'")
    return turn


MAKERS: dict[str, Maker] = {
    **dict.fromkeys(LOOKS | OTHERWISE, add),
    **{name: counted for name in LOOKS if name.startswith("rate_limits.")},
    **dict.fromkeys(OF_KEYS, with_key),
    **dict.fromkeys(OF_PROMPTS | OTHERWISE_PROMPTED, prompted),
    **dict.fromkeys(OF_RUNS, running),
    **dict.fromkeys(OF_CONVERSATIONS | OTHERWISE_TALKING, talking),
    **dict.fromkeys(OF_TRAILS | OTHERWISE_RECORDED | OF_THE_LEDGER, recorded),
    **dict.fromkeys(OF_WEBHOOKS | OTHERWISE_TOLD, hooked),
    **dict.fromkeys(OF_REPLAYS, unhooked),
    "what has left no note": unnoted,
    "what has ended without a note": ended_elsewhere,
}
REFUSED: dict[str, tuple[Look, object]] = {
    name: (refused(look), None) for name, (look, _) in OF_THE_LEDGER.items()
}
ALL = (
    LOOKS
    | OF_KEYS
    | OF_PROMPTS
    | OTHERWISE_PROMPTED
    | OF_RUNS
    | OF_CONVERSATIONS
    | OTHERWISE
    | OTHERWISE_TALKING
    | OF_TRAILS
    | OTHERWISE_RECORDED
    | OF_WEBHOOKS
    | OTHERWISE_TOLD
    | OF_REPLAYS
    | REFUSED
)

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


@pytest.fixture
async def stranger(database_url: str) -> Caller:
    return await a_caller(database_url)


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


WITHOUT_GRANT = {"ui_sessions"}
"""What is looked up before its tenant is known, and is no business of the role's."""


def test_every_table_of_tenants_is_held_to_them() -> None:
    named = {name for name, table in metadata.tables.items() if "tenant_id" in table.columns}
    assert named == set(OF_TENANTS) | WITHOUT_GRANT


async def test_of_some_tables_the_role_may_not_even_read(db: Database) -> None:
    async with db.begin_system() as tx:
        for table in WITHOUT_GRANT:
            found = await tx._driver.fetch(
                "select has_table_privilege($1, $2, 'select, insert, update, delete') as may",
                TENANT_ROLE,
                table,
            )
            assert not found[0]["may"]


async def test_every_table_of_tenants_has_a_policy_for_the_role(db: Database) -> None:
    async with db.begin_system() as tx:
        found = await tx._driver.fetch(
            "select relname from pg_class join pg_policy on polrelid = pg_class.oid "
            "where relrowsecurity and polcmd = '*' and polpermissive "
            "and polroles = array[$1::regrole::oid]",
            TENANT_ROLE,
        )
    assert {row["relname"] for row in found} >= set(OF_TENANTS)


async def test_the_role_cannot_step_around_them(db: Database) -> None:
    """Superusers, owners and roles that say so are not held to policies; nor may it become somebody else."""
    async with db.begin_system() as tx:
        [role] = await tx._driver.fetch(
            "select rolsuper, rolbypassrls, rolcanlogin, rolcreaterole, rolcreatedb, "
            "(select count(*) from pg_class where relowner = r.oid) as owned, "
            "(select count(*) from pg_auth_members where member = r.oid) as memberships "
            "from pg_roles r where rolname = $1",
            TENANT_ROLE,
        )
    assert not any(dict(role).values())


async def test_the_role_may_only_read_what_is_not_of_tenants(db: Database, caller: Caller) -> None:
    statement = "select has_table_privilege($1, $2, 'insert, update, delete, truncate, trigger')"
    async with db.read(caller) as tx:
        for table in metadata.tables.keys() - set(OF_TENANTS):
            [(may,)] = [tuple(row.values()) for row in await tx._driver.fetch(statement, TENANT_ROLE, table)]
            assert not may, table


async def test_a_version_of_a_prompt_is_never_changed(db: Database, caller: Caller) -> None:
    """Not even by its tenant: a response says by which version it was made."""
    await prompted(db, caller)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.begin(caller) as tx:
            await tx._driver.fetch("update prompt_versions set template = '{}'")


async def test_the_id_of_a_prompt_is_never_freed(db: Database, caller: Caller) -> None:
    """Another prompt's versions would have the numbers that programs know of this one."""
    await prompted(db, caller)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.begin(caller) as tx:
            await tx._driver.fetch("delete from prompts")


async def test_a_row_cannot_be_given_to_another_tenant(
    db: Database, caller: Caller, stranger: Caller
) -> None:
    turn = await add(db, caller)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.begin(caller) as tx:
            await tx._driver.fetch(
                "update responses set tenant_id = $1 where id = $2", stranger.tenant_id, turn.id
            )


@pytest.fixture
def bound_url(database_url: str) -> Generator[str]:
    """The database for a login role that has every right but to see all tenants: no owner of the tables."""
    with login_role(database_url) as name:
        fetch(database_url, f"grant all on all tables in schema public to {name}")
        fetch(database_url, f"grant {TENANT_ROLE} to {name}")
        yield logged_in(database_url, name)
        fetch(database_url, f"drop owned by {name}")


@pytest.mark.parametrize("statement_cache", [True, False])
async def test_who_is_bound_by_policies_cannot_act_for_every_tenant(
    bound_url: str, caller: Caller, *, statement_cache: bool
) -> None:
    """Else no key would be seen where there are some, and the server would let in everybody."""
    database = await Database.connect(bound_url, size=1, statement_cache=statement_cache)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with database.begin_system() as tx:
            await keys.exist(tx)
    await add(database, caller)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with database.begin_system() as tx:
            await keys.exist(tx)
    await database.close()


def test_a_server_does_not_start_as_such_a_role(bound_url: str) -> None:
    with pytest.raises(Unavailable, match="serve as the owner"):
        migrate.require(bound_url)
