"""Migrations build exactly the tables that the code knows (law L12), from nothing, at any time, only once."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import create_async_engine

import migrations
from app.errors import Unavailable
from app.store import migrate
from app.store.tables import metadata
from tests.migrations.databases import fetch, logged_in, login_role, new_database, run_script
from tests.waiting import PATIENCE_SECONDS

VERSIONS = sorted((Path(migrations.__file__).parent / "versions").glob("*.py"))
ROOT = Path(migrations.__file__).parents[1]

ADVISORY_LOCK = 0x686F6C64
"""What `migrations/env.py` takes; that module does its work on import."""

CATALOG = {
    "columns": """
        select table_name, column_name, data_type, udt_name, is_nullable, column_default, is_identity,
               col_description((table_schema || '.' || table_name)::regclass, ordinal_position)
        from information_schema.columns join information_schema.tables using (table_schema, table_name)
        where table_schema = 'public' and table_name <> 'alembic_version' and table_type = 'BASE TABLE'
        order by table_name, ordinal_position
    """,
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace and conname <> 'alembic_version_pkc' and contype <> 'n'
        order by conname
    """,
    "indexes": """
        select indexname, indexdef from pg_indexes
        where schemaname = 'public' and tablename <> 'alembic_version' order by indexname
    """,
    "options": """
        select relname, reloptions from pg_class
        where relnamespace = 'public'::regnamespace and relname not like 'alembic_version%' and relkind <> 'v'
        order by relname
    """,
}


@pytest.fixture
def empty_url(postgres_url: str) -> Generator[str]:
    with new_database(postgres_url) as url:
        yield url


def config(url: str) -> migrate.Config:
    return migrate._config(url, StringIO())


def tables(url: str) -> set[object]:
    return {name for (name,) in fetch(url, "select tablename from pg_tables where schemaname = 'public'")}


def create_from_metadata(url: str) -> None:
    async def run() -> None:
        engine = create_async_engine(
            url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=sa.NullPool
        )
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()

    asyncio.run(run())


@contextmanager
def advisory_lock(url: str) -> Generator[Callable[[], int]]:
    """Hold the lock of migrations; what it yields counts those who wait for it."""
    with asyncio.Runner() as runner:
        connection: Any = runner.run(asyncpg.connect(url))
        runner.run(connection.execute(f"select pg_advisory_lock({ADVISORY_LOCK})"))
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        yield lambda: runner.run(connection.fetchval(waiting))
        runner.run(connection.close())


def test_there_is_one_head() -> None:
    script = ScriptDirectory.from_config(config("postgresql://"))
    assert len(script.get_heads()) == 1
    assert len(list(script.walk_revisions())) == len(VERSIONS)


def test_the_head_has_the_tables_of_the_code(database_url: str) -> None:
    migrate.check(database_url)


def test_a_column_that_the_code_does_not_know_is_noticed(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    fetch(empty_url, "alter table responses add column stray integer")
    with pytest.raises(CommandError, match="stray"):
        migrate.check(empty_url)


def test_the_head_has_the_very_schema_of_the_code(database_url: str, empty_url: str) -> None:
    """Checks, defaults, comments and storage options as well, of which `alembic check` sees nothing."""
    create_from_metadata(empty_url)
    for part, query in CATALOG.items():
        assert fetch(database_url, query) == fetch(empty_url, query), part


def test_what_is_compressed_already_is_stored_as_it_is(database_url: str) -> None:
    """SQLAlchemy's tables cannot say it, so only the migration does."""
    query = """
        select attname from pg_attribute
        where attrelid = 'responses'::regclass and attstorage = 'e' order by attname
    """
    assert fetch(database_url, query) == [("body",), ("items",), ("request",), ("stream_shape",)]


def test_the_default_tenant_is_there(database_url: str) -> None:
    assert fetch(database_url, "select id from tenants where name = 'default'") == [(1,)]


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.name)
def test_a_file_says_when_what_and_why(path: Path) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{4}_[a-z]+(_[a-z0-9]+)+\.py", path.name)
    text = path.read_text()
    assert re.search(r"^Reason: \S.+", text, re.MULTILINE)
    assert re.search(r"^Phase: (expand|contract)$", text, re.MULTILINE)
    assert text.count("""op.execute("set local lock_timeout = '3s'")""") == 2, "up and down"


def test_files_are_in_the_order_of_their_revisions() -> None:
    script = ScriptDirectory.from_config(config("postgresql://"))
    in_order = [Path(revision.path).name for revision in script.walk_revisions()][::-1]
    assert in_order == sorted(in_order) == [path.name for path in VERSIONS]


def test_up_from_nothing_down_to_nothing_and_up_again(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    built = {part: fetch(empty_url, query) for part, query in CATALOG.items()}
    command.downgrade(config(empty_url), "base")
    assert tables(empty_url) == {"alembic_version"}
    migrate.upgrade(empty_url)
    assert {part: fetch(empty_url, query) for part, query in CATALOG.items()} == built


def test_upgrading_again_changes_nothing(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    fetch(empty_url, "insert into tenants (name) values ('ours')")
    migrate.upgrade(empty_url)
    assert fetch(empty_url, "select name from tenants order by id") == [("default",), ("ours",)]


def test_two_upgrades_at_once_take_turns(empty_url: str) -> None:
    """Both wait for whoever holds the lock; then one builds, and the other finds everything there."""
    program = "import sys; from app.store import migrate; migrate.upgrade(sys.argv[1])"
    both = list[subprocess.Popen[bytes]]()
    with advisory_lock(empty_url) as waiting:
        for _ in range(2):
            both.append(
                subprocess.Popen([sys.executable, "-c", program, empty_url], cwd=ROOT, stderr=subprocess.PIPE)
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waiting() < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [process.poll() for process in both] == [None, None]
    for process in both:
        _, complaint = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, complaint.decode()
    migrate.check(empty_url)
    assert fetch(empty_url, "select count(*) from dictionaries") == [(1,)]


def test_the_script_does_by_hand_what_an_upgrade_does(empty_url: str) -> None:
    run_script(empty_url, migrate.script("postgresql://nobody@127.0.0.1:1/never_connected"))
    migrate.check(empty_url)
    migrate.upgrade(empty_url)
    assert fetch(empty_url, "select version from dictionaries") == [(1,)]


def test_an_upgrade_of_a_server_that_is_away_says_so() -> None:
    with pytest.raises(Unavailable, match="cannot migrate"):
        migrate.upgrade("postgresql://nobody@127.0.0.1:1/nothing")


def test_an_upgrade_of_a_database_that_is_not_there_says_which(postgres_url: str) -> None:
    head, _, query = postgres_url.partition("?")
    url = head.rpartition("/")[0] + "/not_there" + (f"?{query}" if query else "")
    with pytest.raises(Unavailable, match="not_there"):
        migrate.upgrade(url)


class TestOwnersWhoAreNoSuperusers:
    """Those whom managed databases give out: what they lack, a superuser may have done for them before."""

    @pytest.fixture(autouse=True)
    def role_is_there(self, database_url: str) -> None:
        """Roles are the server's: another database's migration has made it."""

    @pytest.fixture
    def login(self, postgres_url: str) -> Generator[str]:
        with login_role(postgres_url, "createrole") as name:
            yield name

    @pytest.fixture
    def url(self, login: str, empty_url: str) -> str:
        name = fetch(empty_url, "select current_database()")[0][0]
        fetch(empty_url, f'alter database "{name}" owner to {login}')
        return logged_in(empty_url, login)

    def acts_as_the_role(self, url: str) -> bool:
        [(acts,)] = fetch(url, "select set_config('role', 'holdfast_tenant', false) = 'holdfast_tenant'")
        return bool(acts)

    def test_who_was_given_the_role_need_not_be_able_to_make_it(
        self, url: str, login: str, empty_url: str
    ) -> None:
        fetch(empty_url, f"alter role {login} nocreaterole")
        fetch(empty_url, f"grant holdfast_tenant to {login}")
        migrate.upgrade(url)
        assert self.acts_as_the_role(url)

    def test_who_made_the_role_may_act_as_it(self, url: str, login: str, empty_url: str) -> None:
        """Since Postgres 16 a maker is a member who may give the role to anybody, but not act as it."""
        [(version,)] = fetch(empty_url, "select current_setting('server_version_num')::int")
        options = "admin true, inherit false, set false" if int(str(version)) >= 160000 else "admin option"
        fetch(empty_url, f"grant holdfast_tenant to {login} with {options}")
        migrate.upgrade(url)
        assert self.acts_as_the_role(url)

    def test_who_may_not_make_a_role_that_is_missing_is_told_what_to_do(
        self, url: str, login: str, empty_url: str
    ) -> None:
        fetch(empty_url, f"alter role {login} nocreaterole")
        script = ScriptDirectory.from_config(config(url)).get_revision("0004")
        assert script
        statement = script.module.CREATE_ROLE.replace("holdfast_tenant", "holdfast_missing")
        told = f"let a superuser run .create role holdfast_missing nologin; grant holdfast_missing to {login}"
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=told):
            fetch(url, statement)
