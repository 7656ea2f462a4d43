"""The audit trail over HTTP: what is told of, to whom, and in which words."""

import asyncio
import hashlib
from collections.abc import Generator
from contextlib import ExitStack

import httpx2
import orjson
import pytest

from app import ids
from app.domain.audit import WORDS, parse_checkpoint
from app.domain.signing import is_signed
from app.domain.tenancy import Scope
from app.store.codec import decompress
from tests.api.asking import CREATE, MISSING, create, invalid, refusal
from tests.api.auditing import (
    AGED,
    CHECKPOINTS,
    RECORDS,
    SEAL_KEY,
    VERIFICATION,
    Tenant,
    listed,
    tamper,
    told,
    until,
    until_told,
)
from tests.api.conversing import CONVERSATIONS, NOBODY, add, begin, fork, items_of, path_of, remove
from tests.background import execute
from tests.keys import IMPATIENT, new_key
from tests.live import LiveServer
from tests.prompting import PROMPTS, extend, keep


@pytest.fixture(scope="module")
def audited(quiet_database_url: str) -> Generator[LiveServer]:
    """A server that has known from its start that there are keys."""
    asyncio.run(new_key(quiet_database_url, "first"))
    environment = {**IMPATIENT, "HOLDFAST_SEAL_KEY": SEAL_KEY, "HOLDFAST_BROKER_URL": "redis://127.0.0.1:1/0"}
    with LiveServer(quiet_database_url, environment=environment) as live:
        yield live


@pytest.fixture
def tenant(audited: LiveServer, quiet_database_url: str) -> Generator[Tenant]:
    with ExitStack() as clients:
        yield Tenant(audited, quiet_database_url, clients)


@pytest.fixture
def writer(tenant: Tenant) -> httpx2.Client:
    return tenant[Scope.WRITE]


@pytest.fixture
def auditor(tenant: Tenant) -> httpx2.Client:
    return tenant[Scope.AUDIT]


class TestWhatIsTold:
    def test_a_response_from_its_beginning_to_its_end(
        self, tenant: Tenant, writer: httpx2.Client, auditor: httpx2.Client
    ) -> None:
        made = create(writer, metadata={"a": "b"})
        assert writer.delete(f"{CREATE}/{made['id']}").status_code == 200
        created, deleted = listed(auditor)
        assert created["object"] == "audit.record"
        assert (created["seq"], created["action"]) == (1, "response.created")
        assert (created["subject"], created["key_id"]) == (made["id"], tenant.key_id(Scope.WRITE))
        assert orjson.loads(created["data"]) == {"status": "completed", "model": "offline"}
        assert (deleted["seq"], deleted["action"], deleted["subject"]) == (2, "response.deleted", made["id"])
        assert deleted["previous_hash"] == created["hash"]
        [row] = asyncio.run(
            execute(
                tenant.database_url,
                "select codec, body, items from responses where id = $1",
                ids.parse_response_id(made["id"]),
            )
        )
        content = decompress(row["body"], row["codec"]) + decompress(row["items"], row["codec"])
        assert created["digest"] == hashlib.sha256(content).hexdigest()

    def test_a_background_response(self, writer: httpx2.Client, auditor: httpx2.Client) -> None:
        queued = create(writer, background=True)
        polled = create(writer, background=True, store=False)
        for each in (queued, polled):
            assert writer.post(f"{CREATE}/{each['id']}/cancel").status_code == 200
        data = {"status": "queued", "model": "offline"}
        assert told(auditor) == [
            ("response.created", queued["id"], {**data, "store": True}),
            ("response.created", polled["id"], {**data, "store": False}),
            ("response.cancelled", queued["id"], {"status": "cancelled"}),
            ("response.cancelled", polled["id"], {"status": "cancelled"}),
        ]

    def test_what_clients_do_to_a_conversation(self, writer: httpx2.Client, auditor: httpx2.Client) -> None:
        name = begin(writer, "one", "two")
        [item] = add(writer, name, "three")
        copy = fork(writer, name, item)
        remove(writer, name, item)
        assert writer.post(f"{CONVERSATIONS}/{name}", json={"metadata": {"a": "b"}}).status_code == 200
        assert writer.delete(f"{CONVERSATIONS}/{name}").status_code == 200
        empty = writer.post(CONVERSATIONS).json()["id"]
        found = told(auditor)
        turns = [data.pop("turn") for _, _, data in found[:2]]
        assert len(set(turns)) == 2
        assert found == [
            ("conversation.created", name, {"items": 2}),
            ("conversation.extended", name, {"items": 1}),
            ("conversation.created", copy, {"source": name, "item": item["id"]}),
            ("conversation.reduced", name, {"item": item["id"]}),
            ("conversation.updated", name, {"metadata": 1}),
            ("conversation.deleted", name, {}),
            ("conversation.created", empty, {"items": 0}),
        ]
        assert [bool(record["digest"]) for record in listed(auditor)] == [True, True, *[False] * 5]

    def test_what_is_done_to_prompts(self, writer: httpx2.Client, auditor: httpx2.Client) -> None:
        name = keep(writer, {}, name="n")["id"]
        extend(writer, name, {})
        writer.post(f"{PROMPTS}/{name}", json={"default_version": "1"})
        chosen = keep(writer, {}, id="pmpt_chosen")["id"]
        writer.delete(f"{PROMPTS}/{name}")
        found = told(auditor)
        assert found[:3] + found[4:] == [
            ("prompt.created", name, {"id": name, "name": "n"}),
            ("prompt.extended", name, {"id": name, "version": 2}),
            ("prompt.updated", name, {"id": name, "changed": ["default_version"], "pinned": 1}),
            ("prompt.deleted", name, {"id": name}),
        ]
        assert (found[3][0], found[3][2]) == ("prompt.created", {"id": chosen, "name": ""})
        assert [each["action"] for each in listed(auditor, subject=name)] == [
            "prompt.created", "prompt.extended", "prompt.updated", "prompt.deleted",
        ]  # fmt: skip

    def test_a_response_in_a_conversation(self, writer: httpx2.Client, auditor: httpx2.Client) -> None:
        name = begin(writer)
        made = create(writer, conversation=name)
        assert [(action, subject) for action, subject, _ in told(auditor)] == [
            ("conversation.created", name),
            ("response.created", made["id"]),
        ]

    def test_what_is_done_once_is_told_once(self, writer: httpx2.Client, auditor: httpx2.Client) -> None:
        for path, body in ((CREATE, {"model": "offline", "input": "hi"}), (CONVERSATIONS, {})):
            for _ in range(3):
                answer = writer.post(path, json=body, headers={"idempotency-key": "once"})
                assert answer.status_code in {200, 400}, answer.text
        assert [action for action, _, _ in told(auditor)] == ["response.created"]

    def test_what_is_refused_is_not_told(self, writer: httpx2.Client, auditor: httpx2.Client) -> None:
        gone = begin(writer)
        writer.delete(f"{CONVERSATIONS}/{gone}")
        before = listed(auditor)
        for name in (gone, NOBODY):
            assert writer.post(f"{CONVERSATIONS}/{name}", json={"metadata": {}}).status_code == 404
            assert writer.delete(f"{CONVERSATIONS}/{name}").status_code == 404
            assert writer.post(f"{CONVERSATIONS}/{name}/fork", json={}).status_code == 404
            assert writer.post(path_of(name), json={"items": []}).status_code in {400, 404}
        assert writer.delete(f"{CREATE}/{MISSING}").status_code == 404
        assert writer.post(f"{CREATE}/{MISSING}/cancel").status_code == 404
        assert listed(auditor) == before

    def test_without_keys_nobody_is_named(self, api: httpx2.Client) -> None:
        made = create(api)
        [record] = listed(api, subject=made["id"])
        assert record["key_id"] is None


class TestReads:
    """Each is asked for by a key that only reads, and by one that audits."""

    def test_those_by_keys_that_audit_are_told_of(
        self, tenant: Tenant, writer: httpx2.Client, auditor: httpx2.Client
    ) -> None:
        made = create(writer)["id"]
        name = begin(writer, "one")
        [item] = items_of(writer, name)
        running = create(writer, background=True, stream=False)["id"]
        paths: list[tuple[str, str | None, str | None]] = [
            (f"{CREATE}/{made}", made, None),
            (f"{CREATE}/{made}/input_items", made, "input_items"),
            (f"{CREATE}/{made}/context", made, "context"),
            (f"{CREATE}/{running}/attempts", running, "attempts"),
            (f"{CONVERSATIONS}/{name}", name, None),
            (f"{CONVERSATIONS}/{name}/items", name, "items"),
            (f"{CONVERSATIONS}/{name}/items/{item['id']}", name, "items"),
            (f"{CONVERSATIONS}/{name}/context", name, "context"),
            (f"{CREATE}?include=output", None, None),
            (f"{CREATE}?q=hi", None, None),
        ]
        for scope in (Scope.READ, Scope.AUDIT):
            client = tenant[scope]
            for path, _, _ in paths:
                assert client.get(path).status_code == 200
        found = until_told(auditor, len(paths), key_id=tenant.key_id(Scope.AUDIT))
        assert [(each["subject"], orjson.loads(each["data"]).get("part")) for each in found] == [
            (subject, part) for _, subject, part in paths
        ]
        assert {each["action"] for each in found} == {
            "response.read", "conversation.read", "responses.listed",
        }  # fmt: skip
        assert listed(auditor, key_id=tenant.key_id(Scope.READ)) == []
        assert listed(auditor, key_id=tenant.key_id(Scope.WRITE))

    def test_a_stream_that_is_followed_is_read(
        self, tenant: Tenant, writer: httpx2.Client, auditor: httpx2.Client
    ) -> None:
        body = {"model": "offline", "input": "hi", "background": True, "stream": True}
        with writer.stream("POST", CREATE, json=body) as answer:
            first = next(answer.iter_lines())
            assert first
        [made] = [record["subject"] for record in listed(auditor)]
        with auditor.stream("GET", f"{CREATE}/{made}", params={"stream": True}) as answer:
            assert next(answer.iter_lines())
        [read] = until_told(auditor, 1, action="response.read")
        assert (read["subject"], orjson.loads(read["data"])) == (made, {"part": "events"})

    def test_an_administrators_are_too(self, tenant: Tenant, writer: httpx2.Client) -> None:
        made, admin = create(writer)["id"], tenant[Scope.ADMIN]
        admin.get(f"{CREATE}/{made}")
        [read] = until_told(admin, 1, action="response.read")
        assert read["key_id"] == tenant.key_id(Scope.ADMIN)

    def test_what_was_not_there_was_not_read(self, auditor: httpx2.Client) -> None:
        assert auditor.get(f"{CREATE}/{MISSING}").status_code == 404
        assert auditor.get(f"{CONVERSATIONS}/{NOBODY}/items").status_code == 404
        # Whatever was read before this is noted with it.
        auditor.get(VERIFICATION)
        [noted] = until(auditor, "audit.read")
        assert orjson.loads(noted["data"]) == {"part": "verification"}
        assert listed(auditor) == []

    def test_reading_the_trail_is_told_of_in_the_trail(self, tenant: Tenant, auditor: httpx2.Client) -> None:
        auditor.get(RECORDS, params={"limit": 7})
        found = until(auditor, "audit.read")
        assert orjson.loads(found[0]["data"]) == {"part": "records", "count": 0}
        assert found[0]["key_id"] == tenant.key_id(Scope.AUDIT)


class TestScopes:
    @pytest.mark.parametrize("path", [RECORDS, CHECKPOINTS, VERIFICATION])
    @pytest.mark.parametrize("scope", [Scope.READ, Scope.WRITE])
    def test_who_does_not_audit_is_refused(self, tenant: Tenant, path: str, scope: Scope) -> None:
        answer = tenant[scope].get(path)
        assert refusal(answer).code == "insufficient_permissions"
        assert answer.status_code == 403

    def test_who_audits_reads_everything_and_writes_nothing(
        self, tenant: Tenant, writer: httpx2.Client, auditor: httpx2.Client
    ) -> None:
        made, name = create(writer)["id"], begin(writer, "one")
        for path in (f"{CREATE}/{made}", f"{CONVERSATIONS}/{name}/items", CREATE, RECORDS, VERIFICATION):
            assert auditor.get(path).status_code == 200
        before = listed(auditor, key_id=tenant.key_id(Scope.WRITE))
        for method, path in (
            ("POST", CREATE), ("DELETE", f"{CREATE}/{made}"), ("POST", f"{CREATE}/{made}/cancel"),
            ("POST", CONVERSATIONS), ("POST", f"{CONVERSATIONS}/{name}"), ("DELETE", f"{CONVERSATIONS}/{name}"),
            ("POST", path_of(name)), ("POST", f"{CONVERSATIONS}/{name}/fork"),
        ):  # fmt: skip
            assert auditor.request(method, path, json={}).status_code == 403
        for path in (RECORDS, CHECKPOINTS, VERIFICATION):
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                assert auditor.request(method, path, json={}).status_code == 405
        assert listed(auditor, key_id=tenant.key_id(Scope.WRITE)) == before

    def test_of_another_tenants_trail_there_is_nothing(
        self, tenant: Tenant, writer: httpx2.Client, audited: LiveServer
    ) -> None:
        made = create(writer)["id"]
        key = tenant.key_id(Scope.WRITE)
        with ExitStack() as clients:
            stranger = Tenant(audited, tenant.database_url, clients)[Scope.AUDIT]
            for subject in (made, MISSING):
                assert listed(stranger, subject=subject) == []
            assert listed(stranger, key_id=key) == []
            assert listed(stranger) == []
            assert stranger.get(CHECKPOINTS).json()["data"] == []


class TestAsking:
    def test_each_filter_picks_its_own(
        self, tenant: Tenant, writer: httpx2.Client, auditor: httpx2.Client
    ) -> None:
        name, made = begin(writer), create(writer)["id"]
        other = create(tenant[Scope.ADMIN])["id"]
        writer.delete(f"{CREATE}/{made}")
        assert [subject for _, subject, _ in told(auditor, action="response.created")] == [made, other]
        assert [action for action, _, _ in told(auditor, subject=made)] == [
            "response.created",
            "response.deleted",
        ]
        assert [action for action, _, _ in told(auditor, subject=name)] == ["conversation.created"]
        assert [subject for _, subject, _ in told(auditor, key_id=tenant.key_id(Scope.WRITE))] == [
            name,
            made,
            made,
        ]
        assert told(auditor, action="response.cancelled") == []

    @pytest.mark.parametrize("order", ["asc", "desc"])
    def test_pages_neither_skip_nor_repeat(
        self, writer: httpx2.Client, auditor: httpx2.Client, order: str
    ) -> None:
        for _ in range(5):
            create(writer)
        found, after = list[int](), dict[str, int]()
        while True:
            asked = {"limit": 2, "order": order, "action": "response.created", **after}
            page = auditor.get(RECORDS, params=asked).json()
            seqs = [record["seq"] for record in page["data"]]
            assert (page["object"], page["first_id"], page["last_id"]) == ("list", seqs[0], seqs[-1])
            found += seqs
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert found == sorted(found, reverse=order == "desc")
        assert len(set(found)) == 5

    @pytest.mark.parametrize(
        ("asked", "param"),
        [
            ({"action": "nothing"}, "action"),
            ({"action": ""}, "action"),
            ({"subject": "x"}, "subject"),
            ({"subject": ""}, "subject"),
            ({"subject": "resp_" + "G" * 32}, "subject"),
            ({"key_id": "hf_"}, "key_id"),
            ({"key_id": "\x00"}, "key_id"),
            ({"action": "response.read", "subject": MISSING}, "subject"),
            ({"limit": "0"}, "limit"),
            ({"limit": "101"}, "limit"),
            ({"after": "-1"}, "after"),
            ({"after": "x"}, "after"),
            ({"after": str(1 << 63)}, "after"),
            ({"order": "up"}, "order"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_name(
        self, auditor: httpx2.Client, asked: dict[str, str], param: str
    ) -> None:
        told_so = refusal(auditor.get(RECORDS, params=asked))
        assert (told_so.status, told_so.param) == (400, param)

    def test_an_unknown_action_is_told_which_there_are(self, auditor: httpx2.Client) -> None:
        answer = auditor.get(RECORDS, params={"action": "x"})
        message = f"Invalid 'action': 'x'. Supported values are: {', '.join(WORDS)}."
        assert refusal(answer) == invalid(message, code="invalid_value", param="action")

    def test_a_whole_key_that_was_given_by_mistake_is_not_repeated(
        self, tenant: Tenant, auditor: httpx2.Client
    ) -> None:
        key = tenant.keys[Scope.AUDIT]
        for name in ("subject", "key_id"):
            answer = auditor.get(RECORDS, params={name: key.text})
            assert answer.status_code == 400
            assert key.secret not in answer.text


class TestVerification:
    def test_a_trail_that_was_left_alone(self, writer: httpx2.Client, auditor: httpx2.Client) -> None:
        for _ in range(3):
            create(writer)
        last = listed(auditor)[-1]
        answer = auditor.get(VERIFICATION).json()
        assert answer["object"] == "audit.verification"
        assert (answer["is_intact"], answer["fault"], answer["from_seq"]) == (True, None, 1)
        assert answer["records"] >= 3
        assert answer["last_seq"] >= last["seq"]
        assert (answer["checkpoints"], answer["signed_checkpoints"], answer["vouched_seq"]) == (0, 0, 0)

    def test_a_changed_record_is_named(
        self, tenant: Tenant, writer: httpx2.Client, auditor: httpx2.Client
    ) -> None:
        for _ in range(3):
            create(writer)
        assert len(listed(auditor)) == 3
        change = "update audit_records set data = '{}' where tenant_id = $1 and seq = 2"
        tamper(tenant, change)
        answer = auditor.get(VERIFICATION).json()
        assert answer["is_intact"] is False
        assert answer["fault"] == {"seq": 2, "reason": "Record 2 was changed: its hash does not fit."}
        assert answer["last_seq"] == 1

    def test_a_trail_that_cannot_go_on_can_still_be_read(
        self, tenant: Tenant, writer: httpx2.Client, auditor: httpx2.Client
    ) -> None:
        for _ in range(2):
            create(writer)
        assert len(listed(auditor)) == 2
        tamper(tenant, "update audit_heads set seq = 0 where tenant_id = $1")
        create(writer)
        assert [record["seq"] for record in listed(auditor)] == [1, 2]
        reason = "Record 1 stands behind the end that the head of the trail says."
        assert auditor.get(VERIFICATION).json()["fault"] == {"seq": 1, "reason": reason}

    def test_checkpoints_can_be_checked_by_whoever_has_them(
        self, tenant: Tenant, writer: httpx2.Client, auditor: httpx2.Client
    ) -> None:
        for _ in range(2):
            create(writer)
            listed(auditor)
            tamper(tenant, AGED)
        create(writer)
        records = {record["seq"]: record["hash"] for record in listed(auditor)}
        found = auditor.get(CHECKPOINTS).json()
        assert found["data"]
        assert found["has_more"] is False
        for each in found["data"]:
            assert each["object"] == "audit.checkpoint"
            assert each["hash"] == records[each["seq"]]
            assert is_signed(tenant.id, parse_checkpoint(each))
            assert not is_signed(tenant.id + 1, parse_checkpoint(each))
        first = auditor.get(CHECKPOINTS, params={"limit": 1}).json()
        assert first["data"] == found["data"][:1]
        assert first["has_more"] is (len(found["data"]) > 1)
        rest = auditor.get(CHECKPOINTS, params={"after": first["last_id"]}).json()
        assert rest["data"] == found["data"][1:]
        verified = auditor.get(VERIFICATION).json()
        assert verified["signed_checkpoints"] == verified["checkpoints"] >= len(found["data"])
        assert verified["vouched_seq"] >= found["data"][-1]["seq"]
