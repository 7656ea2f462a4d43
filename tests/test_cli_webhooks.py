"""`holdfast webhook`: endpoints made, shown, changed and tested; their log, and replaying from it."""

import asyncio
import base64
import json
import re
from typing import Any

import pytest

from app import ids
from tests.background import execute
from tests.commands import Run, forget_settings, runner
from tests.webhooks.receiving import Receiver

KEY = base64.b64encode(bytes(range(32))).decode()
MISSING = "we_" + "0" * 32


@pytest.fixture(autouse=True)
async def clean_environment(monkeypatch: pytest.MonkeyPatch, quiet_database_url: str) -> None:
    forget_settings(monkeypatch)
    monkeypatch.setenv("HOLDFAST_DATABASE_URL", quiet_database_url)
    monkeypatch.setenv("HOLDFAST_SEAL_KEY", KEY)
    monkeypatch.setenv("HOLDFAST_WEBHOOK_ALLOWED_NETWORKS", '["127.0.0.0/8"]')
    monkeypatch.setenv("COLUMNS", "200")
    await execute(quiet_database_url, "delete from webhook_endpoints")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys, "webhook")


def created(run: Run, *words: str, url: str = "https://example.com/") -> tuple[str, str]:
    """The id and the secret."""
    code, out, err = run("create", url, "--name", "mine", *words)
    assert code == 0, err
    found = re.match(r"(we_[0-9a-f]{32}): ", err)
    assert found
    return found[1], out.removesuffix("\n")


class TestEndpoints:
    def test_the_secret_alone_is_on_the_standard_output_and_in_no_list(self, run: Run) -> None:
        name, secret = created(run, "--event", "response.failed")
        assert secret.startswith("whsec_")
        code, out, _ = run("list")
        assert code == 0
        assert out.splitlines()[0].split() == ["ID", "NAME", "URL", "EVENTS", "STATUS", "SECRET", "CREATED"]
        assert out.splitlines()[1].startswith(
            f"{name}  mine  https://example.com/  response.failed  enabled  whsec_****"
        )
        shown = json.loads(run("show", name)[1])
        assert (shown["id"], shown["event_types"]) == (name, ["response.failed"])
        assert secret not in out + json.dumps(shown)

    async def test_a_terminal_obeys_no_name(self, run: Run, quiet_database_url: str) -> None:
        """The API takes any; so do its columns."""
        await asyncio.to_thread(created, run)
        named = "update webhook_endpoints set name = $1, url = $2"
        await execute(
            quiet_database_url, named, "\x1b]0;mine\x07\r\nroot", "https://example.com/\x9b2J\u202e"
        )
        code, out, _ = await asyncio.to_thread(run, "list")
        assert code == 0
        assert out.count("\n") == 2
        assert "\ufffd]0;mine\ufffd\ufffd\ufffdroot  https://example.com/\ufffd2J\ufffd  " in out

    def test_it_is_changed_and_deleted(self, run: Run) -> None:
        name, _ = created(run)
        assert len(json.loads(run("show", name)[1])["event_types"]) == 4
        words = ("--name", "yours", "--url", "https://example.org/", "--event", "response.completed")
        changed = json.loads(run("update", name, *words)[1])
        assert (changed["name"], changed["url"]) == ("yours", "https://example.org/")
        assert changed["event_types"] == ["response.completed"]
        assert run("delete", name)[:2] == (0, f"{name} is deleted.\n")
        assert run("show", name) == (2, "", f"holdfast: Webhook endpoint with id '{name}' not found.\n")

    @pytest.mark.parametrize("words", [(), ("--keep-old",)])
    async def test_a_new_secret_is_printed(
        self, run: Run, quiet_database_url: str, words: tuple[str, ...]
    ) -> None:
        name, secret = await asyncio.to_thread(created, run)
        code, out, _ = await asyncio.to_thread(run, "rotate", name, *words)
        assert code == 0
        assert out.startswith("whsec_")
        assert out.strip() != secret
        [row] = await execute(
            quiet_database_url, "select old_secret is not null as keeps from webhook_endpoints"
        )
        assert row["keeps"] == bool(words)

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("create", "http://10.0.0.1/", "--name", "x"), "private addresses"),
            (("create", "ftp://x/", "--name", "x"), "https://"),
            (("create", "https://x/", "--name", ""), "--name"),
            (("create", "https://x/", "--name", "x", "--tenant", "nobody"), "no tenant 'nobody'"),
            (("show", MISSING), "not found"),
            (("show", "nonsense"), "not found"),
            (("delete", MISSING), "not found"),
            (("update", MISSING, "--name", "x"), "not found"),
            (("rotate", MISSING), "not found"),
            (("test", MISSING), "not found"),
            (("deliveries", MISSING), "not found"),
            (("delivery", MISSING, "evt_x"), "not found"),
            (("replay", MISSING, "evt_" + "0" * 32), "not found"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(self, run: Run, words: tuple[str, ...], told: str) -> None:
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert told in err
        assert err.count("\n") == 1

    def test_without_a_key_nothing_is_made(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HOLDFAST_SEAL_KEY")
        code, _, err = run("create", "https://example.com/", "--name", "x")
        assert code == 2
        assert "'seal_key'" in err


class TestSample:
    @pytest.mark.parametrize(("status", "code"), [(204, 0), (500, 1)])
    async def test_it_says_what_was_answered(
        self, run: Run, receiver: Receiver, status: int, code: int
    ) -> None:
        receiver.answers = [status]
        name, _ = await asyncio.to_thread(created, run, url=receiver.url())
        found = await asyncio.to_thread(run, "test", name, "--event", "response.failed")
        assert found == (code, f"The endpoint answered with status {status}.\n", "")
        assert receiver.received[0].event["type"] == "response.failed"


class TestLog:
    async def planted(self, url: str, name: str) -> str:
        key = ids.new_uuid()
        insert = """
            insert into webhook_deliveries
                (tenant_id, endpoint_id, event_id, event_type, state, due_at, ended_at, attempt)
            values (1, $1, $2, 'response.failed', 2, null, now(), 1)
        """
        await execute(url, insert, ids.parse_webhook_endpoint_id(name), key)
        return ids.event_id(key)

    async def test_deliveries_are_listed_shown_and_replayed(self, run: Run, quiet_database_url: str) -> None:
        name, _ = await asyncio.to_thread(created, run)
        event = await self.planted(quiet_database_url, name)

        async def said(*words: str) -> str:
            code, out, err = await asyncio.to_thread(run, *words)
            assert code == 0, err
            return out

        assert re.search(rf"{event} +response.failed +failed +1 ", await said("deliveries", name))
        assert event not in await said("deliveries", name, "--status", "delivered")
        shown: Any = json.loads(await said("deliveries", name, "--json"))
        assert shown["id"] == event
        assert json.loads(await said("delivery", name, event)) == shown | {"attempts": []}
        assert await said("replay", name, event) == f"{event} is queued.\n"
        assert json.loads(await said("delivery", name, event))["status"] == "pending"
