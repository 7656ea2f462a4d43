"""Databases that come and go, and plain statements on them, for tests of migrations."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from app import ids


@contextmanager
def new_database(postgres_url: str, *, like: str = "template1") -> Generator[str]:
    """The URL of a new database on this server, empty or a copy; it is dropped in the end."""
    name = f"holdfast_test_{ids.new_uuid().hex}"
    fetch(postgres_url, f'create database "{name}" template "{like}"')
    query = urlsplit(postgres_url).query
    server = postgres_url.partition("?")[0].rpartition("/")[0]
    yield f"{server}/{name}" + (f"?{query}" if query else "")
    fetch(postgres_url, f'drop database "{name}" with (force)')


def fetch(url: str, statement: str) -> list[tuple[object, ...]]:
    """The rows of one statement."""

    async def run() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(run())


def run_script(url: str, script: str) -> None:
    """Run all statements of a script, as `psql -f` would."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(script)
        finally:
            await connection.close()

    asyncio.run(run())


@contextmanager
def login_role(postgres_url: str, options: str = "") -> Generator[str]:
    """The name of a new role that may log in, and is its own password; it is dropped in the end."""
    name = f"holdfast_login_{ids.new_uuid().hex}"
    fetch(postgres_url, f"create role {name} login password '{name}' {options}")
    yield name
    fetch(postgres_url, f"drop role {name}")


def logged_in(url: str, role: str) -> str:
    """The same database, for a role of `login_role`."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{role}@{place}"))
