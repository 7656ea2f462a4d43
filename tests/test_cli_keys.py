"""`holdfast key`, and the refusal to serve strangers without one."""

import asyncio
import re
from pathlib import Path

import pytest

from app import cli_keys, ids
from app.domain.dialects import Dialect
from app.domain.keys import parse
from app.domain.tenancy import Scope
from app.settings import ConfigurationError
from app.store import keys
from app.store.keys import ListedKey
from tests.commands import Run, forget_settings, runner
from tests.keys import in_system


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, quiet_database_url: str) -> None:
    forget_settings(monkeypatch)
    monkeypatch.setenv("HOLDFAST_DATABASE_URL", quiet_database_url)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


async def found(database_url: str, name: str) -> ListedKey:
    return next(key for key in await in_system(database_url, keys.list_all) if ids.key_id(key.id) == name)


class TestCreate:
    def test_the_key_alone_is_on_the_standard_output(self, run: Run) -> None:
        code, out, err = run("key", "create", "--tenant", "acme")
        assert code == 0
        key = parse(out.removesuffix("\n"))
        assert key
        assert key.secret not in err
        assert ids.key_id(key.id) in err
        assert "acme" in err

    def test_it_is_not_in_the_list_again(self, run: Run) -> None:
        _, out, _ = run("key", "create", "--tenant", "acme", "--name", "laptop", "--scope", "read")
        key = parse(out.strip())
        assert key
        code, shown, _ = run("key", "list", "--tenant", "acme")
        assert code == 0
        [line] = [line for line in shown.splitlines() if ids.key_id(key.id) in line]
        assert re.split(r" {2,}", line)[1:4] == ["acme", "laptop", "read"]
        assert line.endswith("valid")
        assert key.secret not in shown
        assert key.hash.hex() not in shown

    @pytest.mark.parametrize(
        ("words", "scopes"),
        [
            ([], Scope.WRITE),
            (["--scope", "audit"], Scope.AUDIT),
            (["--scope", "read", "--scope", "admin"], Scope.READ | Scope.ADMIN),
        ],
    )
    def test_it_has_the_scopes_that_were_asked_for(
        self, run: Run, quiet_database_url: str, words: list[str], scopes: Scope
    ) -> None:
        assert self.made(run, quiet_database_url, *words).scopes == scopes

    def test_it_expires_when_that_was_asked_for(self, run: Run, quiet_database_url: str) -> None:
        made = self.made(run, quiet_database_url, "--expires", "90")
        assert made.expires_at
        assert (made.expires_at - made.created_at).days == 90
        assert self.made(run, quiet_database_url).expires_at is None

    def test_it_speaks_the_dialect_that_was_asked_for(self, run: Run, quiet_database_url: str) -> None:
        assert self.made(run, quiet_database_url).dialect is None
        made = self.made(run, quiet_database_url, "--dialect", "openrouter")
        assert made.dialect is Dialect.OPENROUTER
        [line] = [line for line in run("key", "list")[1].splitlines() if ids.key_id(made.id) in line]
        assert "openrouter" in line

    def made(self, run: Run, database_url: str, *words: str) -> ListedKey:
        code, out, err = run("key", "create", "--tenant", "acme", *words)
        assert code == 0, err
        return asyncio.run(found(database_url, out[:35]))

    @pytest.mark.parametrize(
        "words",
        [
            ["--tenant", ""],
            ["--tenant", "a\nb"],
            ["--tenant", "x" * 201],
            ["--tenant", "a", "--model", ""],
            ["--tenant", "a", "--name", "\x1b[31m"],
        ],
    )
    def test_what_no_table_can_show_is_refused_in_one_line(self, run: Run, words: list[str]) -> None:
        code, out, err = run("key", "create", *words)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"holdfast: --\w+ has to be printable text.*\n", err)

    @pytest.mark.parametrize("words", [["--scope", "root"], ["--dialect", "x"], ["--expires", "-1"], []])
    def test_a_wrong_option_is_named(self, run: Run, words: list[str]) -> None:
        tenant = ["--tenant", "a"] if words else []
        code, out, err = run("key", "create", *tenant, *words)
        assert (code, out) == (2, "")
        assert (words or ["--tenant"])[0] in err


class TestRevoke:
    def test_a_key_is_revoked_and_stays_in_the_list(self, run: Run) -> None:
        name = run("key", "create", "--tenant", "leaving")[1][:35]
        for _ in range(2):
            code, out, _ = run("key", "revoke", name)
            assert (code, out) == (0, f"{name} is revoked.\n")
        [line] = run("key", "list", "--tenant", "leaving")[1].splitlines()[1:]
        assert line.endswith("revoked")

    def test_one_that_is_not_there_is_one_line(self, run: Run) -> None:
        for name in ("hf_" + "0" * 32, "nonsense"):
            code, _, err = run("key", "revoke", name)
            assert code == 2
            assert err == f"holdfast: there is no key {name!r}: `holdfast key list` shows them\n"

    def test_a_whole_key_given_by_mistake_is_not_printed(self, run: Run) -> None:
        text = run("key", "create", "--tenant", "acme")[1].strip()
        code, out, err = run("key", "revoke", text)
        assert code == 2
        assert text[36:] not in out + err


class TestWhere:
    def test_without_a_running_server_there_is_one_line(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("HOLDFAST_DATABASE_URL")
        code, _, err = run("key", "list", "--state-dir", str(tmp_path))
        assert code == 1
        assert err.startswith(
            f"holdfast: database_url is not set, and no `holdfast serve` answers on {tmp_path}"
        )
        assert err.count("\n") == 1


class TestHosts:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
    def test_this_machine_needs_no_key(self, database_url: str, host: str) -> None:
        cli_keys.check_host(database_url, host, insecure=False)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
    def test_others_are_refused_until_there_is_a_key(self, database_url: str, host: str) -> None:
        with pytest.raises(ConfigurationError, match=r"holdfast key create.*--insecure"):
            cli_keys.check_host(database_url, host, insecure=False)
        cli_keys.check_host(database_url, host, insecure=True)

    def test_with_a_key_it_may_listen_anywhere(self, run: Run, quiet_database_url: str) -> None:
        name = run("key", "create", "--tenant", "acme")[1][:35]
        cli_keys.check_host(quiet_database_url, "0.0.0.0", insecure=False)
        run("key", "revoke", name)
        cli_keys.check_host(quiet_database_url, "0.0.0.0", insecure=False)

    def test_the_command_says_so_in_one_line(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, database_url: str
    ) -> None:
        monkeypatch.setenv("HOLDFAST_DATABASE_URL", database_url)
        code, out, err = run("api", "--host", "0.0.0.0", "--port", "0")
        assert (code, out) == (2, "")
        assert err.startswith("holdfast: anybody who reaches 0.0.0.0 could use this server")
        assert err.count("\n") == 1
