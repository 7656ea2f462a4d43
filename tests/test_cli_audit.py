"""`holdfast audit`, and what `holdfast key` leaves in the trail."""

import asyncio
import json
from base64 import b64encode
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from app import ids
from app.domain.audit import SERVER
from app.domain.tenancy import Caller
from app.generation.settings_trail import note_settings
from app.store import tenants
from app.store.db import Database
from tests.background import execute
from tests.commands import Run, forget_settings, runner
from tests.keys import in_system
from tests.store.turns import add
from tests.trails import SIGNER, behind_the_trigger, settle, vouch

SEAL_KEY = b64encode(bytes(range(32))).decode()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, quiet_database_url: str) -> None:
    forget_settings(monkeypatch)
    monkeypatch.setenv("HOLDFAST_DATABASE_URL", quiet_database_url)
    monkeypatch.setenv("HOLDFAST_SEAL_KEY", SEAL_KEY)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


class Trails:
    """Two tenants with trails of four records each, one of them of the server, in a database of their own."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self.callers = asyncio.run(self._make())

    async def _make(self) -> dict[str, Caller]:
        db = await Database.connect(self.database_url, size=2)
        callers = {"server": Caller(SERVER)}
        for name in ("acme", "other"):
            async with db.begin_system() as tx:
                callers[name] = Caller(await tenants.find_or_create(tx, name))
            for _ in range(4):
                await add(db, callers[name])
            await settle(db, callers[name])
            await vouch(db, callers[name])
        await note_settings(db, "api", {"a": 1})
        await settle(db, callers["server"])
        await db.close()
        return callers

    def tamper(self, name: str, *statements: str) -> None:
        """`:mine` stands for the tenant."""

        async def tampered() -> None:
            async with behind_the_trigger(self.database_url) as connection:
                for each in statements:
                    mine = f"tenant_id = {self.callers[name].tenant_id}"
                    done = await connection.execute(each.replace(":mine", mine))
                    assert not done.endswith(" 0")

        asyncio.run(tampered())

    def clear(self) -> None:
        async def cleared() -> None:
            async with behind_the_trigger(self.database_url) as connection:
                for table in ("records", "heads", "checkpoints", "outbox"):
                    await connection.execute(f"delete from audit_{table}")
                await connection.execute("delete from responses")
                await connection.execute("delete from tenants where name in ('acme', 'other')")

        asyncio.run(cleared())


@pytest.fixture
def trails(quiet_database_url: str) -> Generator[Trails]:
    made = Trails(quiet_database_url)
    yield made
    made.clear()


GOOD = "4 records are as they were written; signed for up to record 4"
CHANGED = "update audit_records set data = '{{}}' where :mine and seq = {}"
CUT = (
    "delete from audit_records where :mine and seq > 2",
    "delete from audit_checkpoints where :mine",
    (
        "update audit_heads h set seq = 2, checkpoint_seq = 0, hash = (select hash from audit_records r "
        "where r.tenant_id = h.tenant_id and seq = 2) where :mine"
    ),
)


class TestVerify:
    def test_what_was_left_alone_is_told_in_a_line_each(self, run: Run, trails: Trails) -> None:
        code, out, err = run("audit", "verify")
        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "server: 1 records are as they were written; signed for up to record 0",
            f"tenant acme: {GOOD}",
            f"tenant other: {GOOD}",
        ]

    def test_a_changed_record_is_named_and_the_other_trails_are_read_all_the_same(
        self, run: Run, trails: Trails
    ) -> None:
        trails.tamper("acme", CHANGED.format(3))
        code, out, err = run("audit", "verify")
        assert (code, err) == (1, "")
        assert out.splitlines()[1:] == [
            "tenant acme: record 3 was changed: its hash does not fit",
            f"tenant other: {GOOD}",
        ]

    def test_one_trail_can_be_picked(self, run: Run, trails: Trails) -> None:
        trails.tamper("acme", CHANGED.format(3))
        assert run("audit", "verify", "--tenant", "other") == (0, f"tenant other: {GOOD}\n", "")
        code, out, _ = run("audit", "verify", "--server")
        assert code == 0
        assert out.startswith("server: 1 records")
        assert out.count("\n") == 1

    def test_a_trail_of_nobody_is_named_by_its_number(self, run: Run, trails: Trails) -> None:
        tables = ("records", "heads", "checkpoints")
        trails.tamper(
            "acme", *[f"update audit_{table} set tenant_id = 1000000 where :mine" for table in tables]
        )
        code, out, _ = run("audit", "verify")
        assert code == 1
        assert "tenant #1000000: record 1 was changed: its hash does not fit" in out.splitlines()

    def test_what_has_no_place_yet_is_counted(self, run: Run, trails: Trails) -> None:
        note = "insert into audit_outbox (tenant_id, action, data) values ($1, 1, '{}')"
        asyncio.run(execute(trails.database_url, note, trails.callers["acme"].tenant_id))
        _, out, _ = run("audit", "verify", "--tenant", "acme")
        assert out == f"tenant acme: {GOOD}; 1 more have no place in the trail yet\n"

    def test_signatures_count_of_the_keys_that_are_named(
        self, run: Run, trails: Trails, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HOLDFAST_SEAL_KEY")
        code, out, err = run("audit", "verify", "--tenant", "acme")
        assert (code, out) == (0, "tenant acme: 4 records are as they were written\n")
        assert "Without a seal key or --public-key" in err
        assert SIGNER.public_key
        keys = ("--public-key", "00" * 32, "--public-key", SIGNER.public_key.hex())
        assert run("audit", "verify", "--tenant", "acme", *keys) == (0, f"tenant acme: {GOOD}\n", "")
        _, out, _ = run("audit", "verify", "--tenant", "acme", *keys[:2])
        assert out.endswith("signed for up to record 0\n")

    def test_changed_contents_are_named(self, run: Run, trails: Trails) -> None:
        [row] = asyncio.run(
            execute(
                trails.database_url,
                "update responses set body = 'damaged' where id = (select id from responses "
                "where tenant_id = $1 order by id limit 1) returning id",
                trails.callers["acme"].tenant_id,
            )
        )
        assert run("audit", "verify")[0] == 0
        code, out, _ = run("audit", "verify", "--contents")
        assert code == 1
        assert out.splitlines()[1:] == [
            f"tenant acme: {ids.response_id(row['id'])} is damaged, and cannot be read (record 1)",
            f"tenant acme: {GOOD}",
            f"tenant other: {GOOD}",
        ]

    def test_of_a_terminal_it_makes_use_and_of_nothing_else(
        self, run: Run, trails: Trails, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        code, out, err = run("audit", "verify", "--tenant", "acme")
        assert (code, out) == (0, f"tenant acme: {GOOD}\n")
        assert "100%" in err

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--tenant", "nobody"], "there is no tenant 'nobody'"),
            (["--tenant", "acme", "--server"], "--tenant and --server exclude each other"),
            (["--public-key", "x"], "--public-key has to be 32 bytes in hexadecimal"),
            (["--public-key", "00"], "--public-key has to be 32 bytes in hexadecimal"),
            (["--checkpoint", "/nowhere"], "/nowhere holds no checkpoints"),
        ],
    )
    def test_what_makes_no_sense_is_one_line(
        self, run: Run, trails: Trails, words: list[str], told: str
    ) -> None:
        code, out, err = run("audit", "verify", *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"holdfast: {told}")
        assert err.count("\n") == 1


class TestCheckpoints:
    @pytest.fixture
    def kept(self, run: Run, trails: Trails, tmp_path: Path) -> Path:
        code, out, _ = run("audit", "checkpoints")
        assert code == 0
        path = tmp_path / "kept.json"
        path.write_text(out)
        return path

    def test_kept_elsewhere_they_tell_of_what_was_cut_off(self, run: Run, trails: Trails, kept: Path) -> None:
        assert run("audit", "verify", "--checkpoint", str(kept))[0] == 0
        trails.tamper("acme", *CUT)
        assert run("audit", "verify")[0] == 0
        code, out, _ = run("audit", "verify", "--checkpoint", str(kept))
        assert code == 1
        assert out.splitlines()[1:] == [
            "tenant acme: record 3 is missing: a checkpoint that was kept says that the trail went on to 4",
            f"tenant other: {GOOD}",
        ]

    def test_so_they_do_as_the_api_tells_them(
        self, run: Run, trails: Trails, kept: Path, tmp_path: Path
    ) -> None:
        """It does not say whose they are."""
        data = json.loads(kept.read_text())["data"]
        own = [{**each} for each in data if each.pop("tenant") == "acme"]
        path = tmp_path / "answer.json"
        path.write_text(json.dumps({"object": "list", "data": own, "has_more": False}))
        code, _, err = run("audit", "verify", "--checkpoint", str(path))
        assert code == 2
        assert "does not say whose checkpoints these are: say --tenant" in err
        words = ("audit", "verify", "--tenant", "acme", "--checkpoint", str(path))
        assert run(*words)[0] == 0
        trails.tamper("acme", *CUT)
        assert run(*words)[0] == 1

    def test_those_of_a_trail_that_is_gone_are_missed(self, run: Run, trails: Trails, kept: Path) -> None:
        trails.tamper("acme", *[f"delete from audit_{table} where :mine" for table in ("records", "heads")])
        trails.tamper("acme", "delete from audit_checkpoints where :mine")
        code, _, err = run("audit", "verify", "--checkpoint", str(kept))
        assert code == 2
        assert err == "holdfast: checkpoints were kept of trails that are not here: 'acme'\n"
        code, out, _ = run("audit", "verify", "--tenant", "acme", "--checkpoint", str(kept))
        assert code == 1
        assert out.startswith("tenant acme: record 1 is missing")

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"data":[{}]}', '{"data":[{"tenant":"acme","seq":"x"}]}', '{"data":7}']
    )
    def test_a_file_of_something_else_is_refused(
        self, run: Run, trails: Trails, tmp_path: Path, text: str
    ) -> None:
        path = tmp_path / "other.json"
        path.write_text(text)
        code, _, err = run("audit", "verify", "--tenant", "acme", "--checkpoint", str(path))
        assert code == 2
        assert err.startswith(f"holdfast: {path} holds no checkpoints")
        assert err.count("\n") == 1

    def test_they_say_whose_they_are(self, trails: Trails, kept: Path) -> None:
        data = json.loads(kept.read_text())["data"]
        assert [(each["tenant"], each["seq"]) for each in data] == [("acme", 4), ("other", 4)]
        assert SIGNER.public_key
        assert {each["public_key"] for each in data} == {SIGNER.public_key.hex()}


class TestPublicKey:
    def test_it_is_printed_alone(self, run: Run) -> None:
        assert SIGNER.public_key
        assert run("audit", "public-key") == (0, f"{SIGNER.public_key.hex()}\n", "")

    def test_without_a_seal_key_there_is_none(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HOLDFAST_SEAL_KEY")
        code, out, err = run("audit", "public-key")
        assert (code, out) == (2, "")
        assert err.startswith("holdfast: there is no seal key")


class TestList:
    def test_a_table_newest_first(self, run: Run, trails: Trails) -> None:
        code, out, err = run("audit", "list", "--tenant", "acme", "--limit", "2")
        head, *rows = out.splitlines()
        assert (code, err) == (0, "")
        assert head.split() == ["SEQ", "AT", "ACTION", "SUBJECT", "KEY", "DATA"]
        assert [row.split()[0] for row in rows] == ["4", "3"]
        assert "response.created" in rows[0]

    def test_lines_of_json_as_the_api_has_them(self, run: Run, trails: Trails) -> None:
        found = self.listed(run, "--tenant", "acme", "--oldest-first", "--after", "2")
        assert [record["seq"] for record in found] == [3, 4]
        assert found[0].keys() >= {"object", "at", "subject", "hash", "previous_hash"}
        [only] = self.listed(run, "--tenant", "acme", "--subject", found[0]["subject"])
        assert only == found[0]

    def listed(self, run: Run, *words: str) -> list[dict[str, Any]]:
        code, out, err = run("audit", "list", "--json", *words)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    def test_the_servers_own(self, run: Run, trails: Trails) -> None:
        [record] = self.listed(run, "--server", "--action", "settings.changed")
        assert json.loads(record["data"])["settings"] == {"a": 1}
        assert self.listed(run, "--server", "--action", "key.created") == []

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--action", "nothing"], "--action is not known: one of response.created"),
            (["--key", "nothing"], "--key is not known"),
            (["--action", "key.created", "--key", "hf_" + "0" * 32], "--action and --key exclude each other"),
            (["--tenant", "nobody"], "there is no tenant 'nobody'"),
        ],
    )
    def test_what_makes_no_sense_is_one_line(self, run: Run, words: list[str], told: str) -> None:
        code, out, err = run("audit", "list", *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"holdfast: {told}")


class TestKeys:
    def test_what_is_done_to_a_key_is_in_its_tenants_trail(
        self, run: Run, trails: Trails, quiet_database_url: str
    ) -> None:
        words = (
            "--scope",
            "read",
            "--scope",
            "audit",
            "--name",
            "laptop",
            "--expires",
            "30",
            "--model",
            "gpt-*",
        )
        name = run("key", "create", "--tenant", "acme", *words)[1][:35]
        for _ in range(2):
            run("key", "revoke", name)
        assert "have no place in the trail yet" in run("audit", "list", "--tenant", "acme")[2]
        asyncio.run(self.settled(quiet_database_url, trails.callers["acme"]))
        _, out, _ = run("audit", "list", "--json", "--oldest-first", "--tenant", "acme", "--after", "4")
        assert [
            (each["action"], each["subject"], each["key_id"], json.loads(each["data"]))
            for each in map(json.loads, out.splitlines())
        ] == [
            ("tenant.changed", None, None, {"models": ["gpt-*"]}),
            (
                "key.created",
                name,
                None,
                {"name": "laptop", "scopes": ["read", "audit"], "expires_days": 30.0},
            ),
            ("key.revoked", name, None, {}),
        ]

    async def settled(self, database_url: str, caller: Caller) -> None:
        db = await Database.connect(database_url, size=1)
        await settle(db, caller)
        await db.close()

    def test_what_was_not_done_is_not(self, run: Run, trails: Trails) -> None:
        run("key", "revoke", "hf_" + "0" * 32)
        run("key", "list")
        run("key", "create", "--tenant", "acme", "--name", "\x1b")

        async def count(tx: Any) -> int:
            [row] = await tx._driver.fetch("select count(*) from audit_outbox")
            return row["count"]

        assert asyncio.run(in_system(trails.database_url, count)) == 0
