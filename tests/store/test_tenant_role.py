"""The role that requests act in: what it is granted, and whom a server does not start as."""

from collections.abc import Generator

import asyncpg
import pytest

from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.store import (
    keys,
    migrate,
)
from app.store.db import Database
from app.store.tables import OF_TENANTS, TENANT_ROLE, metadata
from tests.migrations.databases import fetch, logged_in, login_role
from tests.store.looks_at_webhooks import prompted
from tests.store.turns import add

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
