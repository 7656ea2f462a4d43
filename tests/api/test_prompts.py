"""/v1/prompts: kept, extended, pinned, listed, deleted; what is refused of them."""

import time
from typing import Any

import httpx2
import pytest

from app import ids
from app.domain.prompts import MAX_PROMPTS, MAX_VERSIONS, Prompt
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.generation import prompt_keeping
from app.store import prompts
from app.store.db import Database
from tests.api.asking import invalid, refusal
from tests.prompting import NO_PROMPT, PROMPTS, extend, keep, message, user

ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("POST", "", {"name": "x"}),
    ("DELETE", "", None),
    ("POST", "/versions", {"template": {}}),
    ("GET", "/versions", None),
]
by_id = pytest.mark.parametrize(("method", "tail", "body"), ROUTES)


def absent(name: str, version: str | None = None) -> Any:
    which = f" and version '{version}'" if version else ""
    return invalid(f"Prompt with id '{name}'{which} not found.", code=None, param=None, status=404)


def read(api: httpx2.Client, name: str, **query: Any) -> dict[str, Any]:
    answer = api.get(f"{PROMPTS}/{name}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


class TestCreate:
    def test_it_is_answered_with_its_first_version(self, api: httpx2.Client) -> None:
        template = {"model": "offline", "instructions": "Be {{how}}.", "messages": [user("Hi {{who}}")]}
        made = keep(api, template, name="greeting", metadata={"team": "a"})
        assert ids.parse_prompt_id(made["id"])
        assert abs(made["created_at"] - time.time()) < 60
        version = {
            "object": "prompt.version",
            "prompt_id": made["id"],
            "version": "1",
            "created_at": made["version"]["created_at"],
            "is_default": True,
            "variables": ["how", "who"],
            "template": {**template, "messages": [message("user", "Hi {{who}}")]},
        }
        assert made == {
            "id": made["id"], "object": "prompt", "created_at": made["created_at"], "name": "greeting",
            "metadata": {"team": "a"}, "latest_version": "1", "default_version": "1", "is_pinned": False,
            "version": version,
        }  # fmt: skip
        assert read(api, made["id"]) == made

    def test_an_id_from_elsewhere_is_kept(self, api: httpx2.Client) -> None:
        name = f"pmpt_68b0c29740048196{ids.new_uuid().hex}"
        assert keep(api, {}, id=name)["id"] == name
        again = api.post(PROMPTS, json={"id": name, "template": {}})
        told = refusal(again)
        assert (told.status, told.code, told.param) == (400, "prompt_exists", "id")

    def test_every_parameter_is_kept_as_a_create_has_it(self, api: httpx2.Client) -> None:
        template = {
            "model": "offline", "tools": [{"type": "function", "name": "f", "parameters": {}}],
            "tool_choice": "auto", "text": {"verbosity": "low"}, "temperature": 0.5, "top_p": 0.5,
            "presence_penalty": 0.5, "frequency_penalty": 0.5, "parallel_tool_calls": False,
            "max_output_tokens": 16, "max_tool_calls": 1, "reasoning": {"effort": "low"},
            "truncation": "auto", "top_logprobs": 1, "instructions": "",
        }  # fmt: skip
        assert keep(api, template)["version"]["template"] == template

    @pytest.mark.parametrize("text", ["\u0001\ufffd \U0001f600", "\0", "\\u0000", '"}', "\u2028"])
    def test_a_template_is_kept_to_the_letter(self, api: httpx2.Client, text: str) -> None:
        assert keep(api, {"instructions": text})["version"]["template"] == {"instructions": text}

    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            ({}, "missing_required_parameter", "template"),
            ({"template": None}, "invalid_type", "template"),
            ({"template": []}, "invalid_type", "template"),
            ({"template": {"temperature": 3}}, "decimal_above_max_value", "template.temperature"),
            ({"template": {"store": True}}, "unknown_parameter", "template.store"),
            ({"template": {"model": ""}}, "empty_string", "template.model"),
            ({"template": {"messages": "x"}}, "invalid_type", "template.messages"),
            ({"template": {"messages": [{}]}}, "invalid_value", "template.messages[0]"),
            (
                {"template": {"messages": [{"role": "user"}]}},
                "missing_required_parameter",
                "template.messages[0].content",
            ),
            (
                {"template": {"messages": [{**user("x"), "id": "msg_1"}]}},
                "unknown_parameter",
                "template.messages[0].id",
            ),
            ({"template": {}, "id": "resp_1"}, "invalid_value", "id"),
            ({"template": {}, "id": "pmpt_" + "a" * 60}, "string_above_max_length", "id"),
            ({"template": {}, "name": "\0"}, "invalid_value", "name"),
            ({"template": {}, "name": "x" * 257}, "string_above_max_length", "name"),
            ({"template": {}, "metadata": {"a": 1}}, "invalid_type", "metadata.a"),
            ({"templates": {}}, "unknown_parameter", "templates"),
            (
                {"template": {"tools": [{"type": "mcp", "server_label": "s", "server_url": "https://e.com", "authorization": "t"}]}},
                "unsupported_parameter",
                "template.tools[0].authorization",
            ),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(self, api: httpx2.Client, body: Any, code: str, param: str) -> None:
        told = refusal(api.post(PROMPTS, json=body))
        assert (told.status, told.code, told.param) == (400, code, param)

    def test_a_repeated_key_makes_one_prompt(self, api: httpx2.Client) -> None:
        headers = {"idempotency-key": ids.new_uuid().hex}
        first, second = (api.post(PROMPTS, json={"template": {}}, headers=headers) for _ in range(2))
        assert first.content == second.content
        assert second.headers["idempotent-replayed"] == "true"


class TestVersions:
    def test_the_newest_is_the_default(self, api: httpx2.Client) -> None:
        name = keep(api, {"instructions": "one"})["id"]
        second = extend(api, name, {"instructions": "two"})
        assert (second["version"], second["is_default"]) == ("2", True)
        seen = read(api, name)
        assert (seen["latest_version"], seen["default_version"], seen["is_pinned"]) == ("2", "2", False)
        assert seen["version"] == second
        first = read(api, name, version="1")["version"]
        assert (first["template"], first["is_default"]) == ({"instructions": "one"}, False)

    def test_unless_another_one_is_pinned(self, api: httpx2.Client) -> None:
        name = keep(api, {"instructions": "one"})["id"]
        extend(api, name, {"instructions": "two"})
        pinned = api.post(f"{PROMPTS}/{name}", json={"default_version": "1"}).json()
        assert (pinned["default_version"], pinned["is_pinned"]) == ("1", True)
        assert extend(api, name, {"instructions": "three"})["is_default"] is False
        assert read(api, name)["version"]["template"] == {"instructions": "one"}
        loose = api.post(f"{PROMPTS}/{name}", json={"default_version": None}).json()
        assert (loose["default_version"], loose["is_pinned"]) == ("3", False)

    @pytest.mark.parametrize("version", ["0", "2", "01", "-1", "x", "", "1.0", "٣", "9" * 30, "4294967296"])
    def test_one_that_is_not_there_is_named(self, api: httpx2.Client, version: str) -> None:
        name = keep(api, {})["id"]
        told = refusal(api.post(f"{PROMPTS}/{name}", json={"default_version": version}))
        assert (told.status, told.code, told.param) == (400, "invalid_value", "default_version")
        answer = api.get(f"{PROMPTS}/{name}", params={"version": version})
        assert refusal(answer) == absent(name, version) if version else answer.status_code == 404

    def test_they_are_listed_by_pages(self, api: httpx2.Client) -> None:
        name = keep(api, {"instructions": "1"})["id"]
        for number in range(2, 6):
            extend(api, name, {"instructions": str(number)})
        for order, expected in (("asc", "12345"), ("desc", "54321")):
            seen, after = list[str](), {}
            while True:
                page = api.get(
                    f"{PROMPTS}/{name}/versions", params={"limit": 2, "order": order, **after}
                ).json()
                seen += [each["template"]["instructions"] for each in page["data"]]
                assert page["last_id"] == page["data"][-1]["version"]
                if not page["has_more"]:
                    break
                after = {"after": page["last_id"]}
            assert "".join(seen) == expected
        told = refusal(api.get(f"{PROMPTS}/{name}/versions", params={"after": "x"}))
        assert (told.status, told.code, told.param) == (400, "invalid_value", "after")


class TestUpdate:
    def test_what_is_left_out_stays(self, api: httpx2.Client) -> None:
        name = keep(api, {}, name="a", metadata={"k": "v"})["id"]
        changed = api.post(f"{PROMPTS}/{name}", json={"name": "b"}).json()
        assert (changed["name"], changed["metadata"]) == ("b", {"k": "v"})
        changed = api.post(f"{PROMPTS}/{name}", json={"metadata": None, "name": None}).json()
        assert (changed["name"], changed["metadata"]) == ("", {})
        assert api.post(f"{PROMPTS}/{name}", content=b"").json() == changed

    def test_a_template_cannot_be_changed(self, api: httpx2.Client) -> None:
        name = keep(api, {})["id"]
        told = refusal(api.post(f"{PROMPTS}/{name}", json={"template": {}}))
        assert (told.code, told.param) == ("unknown_parameter", "template")


class TestList:
    def test_the_pager_meets_each_once_newest_first(self, api: httpx2.Client) -> None:
        mine = [keep(api, {}, name=f"n{number}")["id"] for number in range(3)]
        seen, after = list[str](), dict[str, str]()
        while not set(mine) <= set(seen):
            page = api.get(PROMPTS, params={"limit": 2, **after}).json()
            assert all("version" not in each for each in page["data"])
            seen += [each["id"] for each in page["data"]]
            after = {"after": page["last_id"]}
        assert [name for name in seen if name in mine] == mine[::-1]
        assert len(seen) == len(set(seen))

    @pytest.mark.parametrize("after", ["x", "pmpt_%00", NO_PROMPT, ""])
    def test_a_cursor_of_nothing_is_refused(self, api: httpx2.Client, after: str) -> None:
        told = refusal(api.get(f"{PROMPTS}?after={after}"))
        assert (told.status, told.code, told.param) == (400, "invalid_value", "after")


class TestDelete:
    def test_it_is_gone_with_its_versions(self, api: httpx2.Client) -> None:
        name = keep(api, {})["id"]
        extend(api, name, {})
        told = api.delete(f"{PROMPTS}/{name}").json()
        assert told == {"id": name, "object": "prompt.deleted", "deleted": True}
        assert refusal(api.get(f"{PROMPTS}/{name}")) == absent(name)

    def test_its_id_is_no_other_prompt_s(self, api: httpx2.Client) -> None:
        """Programs that name a version of it would silently be given another text."""
        name = keep(api, {}, id=f"pmpt_{ids.new_uuid().hex}")["id"]
        api.delete(f"{PROMPTS}/{name}")
        told = refusal(api.post(PROMPTS, json={"id": name, "template": {}}))
        assert (told.status, told.code, told.param) == (400, "prompt_deleted", "id")
        assert name not in api.get(PROMPTS).text
        assert refusal(api.delete(f"{PROMPTS}/{name}")) == absent(name)


class TestBounds:
    """Of a tenant of its own, which has as much as it may."""

    @pytest.fixture
    async def full(self, db: Database, caller: Caller) -> Prompt:
        prompt = Prompt(ids.new_uuid(), f"pmpt_{ids.new_uuid().hex}", "", {}, latest=1, pinned=None)
        filled = """
            insert into prompts (tenant_id, key, latest, id, name, metadata)
            select $1, gen_random_uuid(), 1, 'pmpt_' || number, '', '{}' from generate_series(2, $2) number
        """
        async with db.begin(caller) as tx:
            assert await prompts.create(tx, prompt, {})
            await tx._driver.fetch(filled, caller.tenant_id, MAX_PROMPTS)
            await tx._driver.fetch("update prompts set latest = $1", MAX_VERSIONS)
        return prompt

    async def test_a_tenant_has_only_so_many(self, db: Database, caller: Caller, full: Prompt) -> None:
        async def create() -> None:
            async with db.begin(caller) as tx:
                await prompt_keeping.create(tx, {}, prompt_id=None, name="", metadata={})

        with pytest.raises(InvalidRequest, match="Too many prompts: 10000 is the limit") as refused:
            await create()
        assert refused.value.code == "prompt_limit_exceeded"
        async with db.begin(caller) as tx:
            await prompt_keeping.delete(tx, full.id)
        await create()

    async def test_a_prompt_has_only_so_many_versions(
        self, db: Database, caller: Caller, full: Prompt
    ) -> None:
        async with db.begin(caller) as tx:
            with pytest.raises(InvalidRequest, match="1000 is the limit") as refused:
                await prompt_keeping.extend(tx, full.id, {})
        assert refused.value.code == "prompt_version_limit_exceeded"


class TestAbsent:
    @by_id
    @pytest.mark.parametrize("name", [NO_PROMPT, "pmpt_x", "pmpt_", "pmpt_" + "a" * 300])
    def test_nobody(self, api: httpx2.Client, method: str, tail: str, body: Any, name: str) -> None:
        told = refusal(api.request(method, f"{PROMPTS}/{name}{tail}", json=body))
        assert (told.status, told.code, told.param) == (404, None, None)

    @by_id
    def test_another_kind(self, api: httpx2.Client, method: str, tail: str, body: Any) -> None:
        told = refusal(api.request(method, f"{PROMPTS}/resp_1{tail}", json=body))
        assert (told.status, told.code, told.param) == (400, "invalid_value", "prompt_id")
