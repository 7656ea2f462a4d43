import os
import signal
from pathlib import Path

import asyncpg
import psutil
import pytest

from app.embedded import account, binaries, locks
from app.embedded.errors import CannotStart
from app.embedded.postgres import EmbeddedPostgres
from tests.embedded.processes import alive, wait_until_gone

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")


async def ask(postgres: EmbeddedPostgres, question: str) -> object:
    connection = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def server_pid(state_dir: Path) -> int:
    return int((state_dir / "data" / "postmaster.pid").read_text().split()[0])


async def test_data_survives_an_orderly_stop(state_dir: Path) -> None:
    with EmbeddedPostgres(state_dir) as postgres:
        await ask(postgres, "create table kept as select 42 as answer")
        pid = server_pid(state_dir)
    assert not alive({pid})
    with EmbeddedPostgres(state_dir) as postgres:
        assert await ask(postgres, "select answer from kept") == 42
        assert await ask(postgres, "select current_setting('fsync')") == "on"
        assert await ask(postgres, "select current_setting('listen_addresses')") == ""
        assert await ask(postgres, "select current_setting('TimeZone')") == "UTC"
    assert "database system was not properly shut down" not in (state_dir / "postgres.log").read_text()


async def test_data_survives_a_killed_server(used_state_dir: Path) -> None:
    postgres = EmbeddedPostgres(used_state_dir)
    postgres.start()
    await ask(postgres, "create table kept as select 42 as answer")
    pid = server_pid(used_state_dir)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone({pid})
    postgres.stop()
    with EmbeddedPostgres(used_state_dir) as postgres:
        assert await ask(postgres, "select answer from kept") == 42


async def test_a_start_waits_for_a_dying_predecessor(used_state_dir: Path) -> None:
    predecessor = EmbeddedPostgres(used_state_dir, durable=False)
    predecessor.start()
    server = predecessor._server
    assert server
    assert server._guard.stdin
    # What the kernel does when the parent is killed.
    server._guard.stdin.close()
    with EmbeddedPostgres(used_state_dir) as postgres:
        assert await ask(postgres, "select 1") == 1
    assert server.wait() == 0
    os.close(server.ended_fd)


def test_a_running_server_is_never_joined_by_a_second(
    used_state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.embedded.postgres.PREDECESSOR_SECONDS", 0.05)
    with EmbeddedPostgres(used_state_dir, durable=False), pytest.raises(CannotStart, match="still held"):
        EmbeddedPostgres(used_state_dir).start()


async def test_a_pid_file_of_an_earlier_life_is_not_believed(used_state_dir: Path) -> None:
    """In a container the numbers come again: it may name a process that lives and is not Postgres."""
    with EmbeddedPostgres(used_state_dir, durable=False):
        contents = (used_state_dir / "data" / "postmaster.pid").read_text().splitlines()
    (used_state_dir / "data" / "postmaster.pid").write_text("\n".join([str(os.getppid()), *contents[1:]]))
    with EmbeddedPostgres(used_state_dir, durable=False) as postgres:
        assert await ask(postgres, "select 1") == 1


async def test_a_half_made_cluster_is_made_again(state_dir: Path) -> None:
    unfinished = state_dir / "data.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18")
    with EmbeddedPostgres(state_dir, durable=False) as postgres:
        assert await ask(postgres, "select 1") == 1
    assert not unfinished.exists()


async def test_a_path_too_long_for_a_socket_works(state_dir: Path) -> None:
    long = state_dir / ("long" * 25)
    postgres = EmbeddedPostgres(long, durable=False)
    with postgres:
        assert await ask(postgres, "select 1") == 1
    postgres._sockets.rmdir()


def test_a_stranger_s_socket_folder_is_refused(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir, durable=False)
    postgres._sockets.mkdir(parents=True)
    postgres._sockets.chmod(0o777)
    with pytest.raises(CannotStart, match="not a private folder"):
        postgres.start()


def test_another_major_version_of_the_data_is_named(used_state_dir: Path) -> None:
    (used_state_dir / "data" / "PG_VERSION").write_text("14\n")
    with pytest.raises(CannotStart, match=r"is PostgreSQL 14 and the binaries are \d+"):
        EmbeddedPostgres(used_state_dir).start()


def test_what_postgres_complains_about_is_told_in_one_line(used_state_dir: Path) -> None:
    (used_state_dir / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(CannotStart, match=r"no_such_setting|configuration file") as caught:
        EmbeddedPostgres(used_state_dir).start()
    assert "\n" not in str(caught.value)


@AS_ROOT
def test_root_drops_to_an_account_and_owns_the_rest(used_state_dir: Path) -> None:
    before = {path: path.stat() for path in (used_state_dir, used_state_dir.parent)}
    with EmbeddedPostgres(used_state_dir, durable=False):
        owner = psutil.Process(server_pid(used_state_dir)).uids().real
        assert owner != 0
        assert (used_state_dir / "data").stat().st_uid == owner
        assert (used_state_dir / "run").stat().st_mode & 0o777 == 0o700
    for path, found in before.items():
        assert (path.stat().st_mode, path.stat().st_uid) == (found.st_mode, found.st_uid)


@AS_ROOT
def test_a_state_folder_out_of_the_account_s_reach_is_named(state_dir: Path) -> None:
    state_dir.parent.chmod(0o700)
    with pytest.raises(CannotStart, match=f"cannot reach {state_dir}"):
        EmbeddedPostgres(state_dir).start()
    assert state_dir.parent.stat().st_mode & 0o777 == 0o700


@AS_ROOT
def test_binaries_out_of_the_account_s_reach_are_copied(state_dir: Path, tmp_path: Path) -> None:
    source = binaries.find()
    package = source.parent.parent
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    for path in (package, package.with_name(package.name + ".libs")):
        (hidden / path.name).symlink_to(path)
    state_dir.mkdir(mode=0o755)
    someone = account.for_data(state_dir / "data")
    bin_dir, major = binaries.usable(hidden / source.relative_to(package.parent), someone, state_dir)
    assert bin_dir.is_relative_to(state_dir)
    assert major >= binaries.OLDEST_MAJOR


@AS_ROOT
def test_existing_data_keeps_its_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    found = account.for_data(tmp_path)
    assert found
    assert found.uid == 65534


@AS_ROOT
def test_a_user_without_a_name_is_told_to_set_database_url(state_dir: Path) -> None:
    os.seteuid(54321)
    try:
        with pytest.raises(CannotStart, match=r"user id 54321 has no entry .* set database_url"):
            account.for_data(state_dir / "data")
    finally:
        os.seteuid(0)


@AS_ROOT
def test_the_data_of_another_user_is_not_touched(state_dir: Path) -> None:
    state_dir.mkdir()
    os.seteuid(65534)
    try:
        with pytest.raises(CannotStart, match="belongs to root"):
            account.for_data(state_dir)
    finally:
        os.seteuid(0)


def test_a_named_folder_without_binaries_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=f"embedded_postgres_bin: there is no 'postgres' in {tmp_path}"):
        binaries.find(tmp_path)


def test_the_holder_of_the_state_folder_is_named(state_dir: Path) -> None:
    with (
        locks.only_one(state_dir),
        pytest.raises(CannotStart, match=rf"another holdfast \(pid {os.getpid()}\) runs on {state_dir}"),
        locks.only_one(state_dir),
    ):
        pass


def test_a_state_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match="cannot create state_dir"):
        locks.make_state_dir(tmp_path / "file" / "state")
