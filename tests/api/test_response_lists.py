"""Lists, statistics and lineage of responses, as a client asks for them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from app import ids
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.store.db import Database
from tests.api.asking import CREATE, MISSING, create, refusal
from tests.api.conversing import begin
from tests.api.listing import STATS, listed, names, unique
from tests.store.searching import Known, store


class TestFilters:
    def test_what_a_request_names_finds_its_response(self, api: httpx2.Client) -> None:
        user, safe, word = unique("user"), unique("safe"), unique()
        made = create(
            api, f"say {word}", user=user, safety_identifier=safe, metadata={"a": word, "b ü&[]=": "2"}
        )
        create(api, "something else", user=unique())
        for params in (
            {"user": user},
            {"safety_identifier": safe},
            {"metadata[a]": word},
            {"metadata[a]": word, "metadata[b ü&[]=]": "2"},
            {"q": word},
            {"q": f'"say {word}"'},
            {"q": f"{word} -nonsense"},
            {"q": f"{unique()} or {word}"},
            {"user": user, "model": "offline", "status": "completed", "background": "false"},
            {"user": user, "has_attempts_over": "0", "limit": "1"},
        ):
            found = names(api, **params)
            assert found == ([] if "has_attempts_over" in params else [made["id"]]), params
        for params in (
            {"metadata[a]": word, "metadata[b ü&[]=]": "3"},
            {"q": f"{word} {unique()}"},
            {"user": user, "model": "x"},
        ):
            assert names(api, **params) == []

    def test_a_failure_is_found_by_its_status_and_code(self, api: httpx2.Client) -> None:
        user = unique()
        api.post(CREATE, json={"model": "offline", "input": "::fail server_error", "user": user})
        [failed] = listed(api, user=user, status="failed", error_code="server_error")
        assert failed["error"]["code"] == "server_error"
        assert names(api, user=user, status="completed") == []
        assert names(api, user=user, error_code="rate_limit_exceeded") == []

    def test_a_tool_is_found_by_its_name(self, api: httpx2.Client) -> None:
        name = unique("tool_")
        tool = {
            "type": "function",
            "name": name,
            "parameters": {"type": "object", "properties": {}},
            "strict": False,
        }
        called = create(api, f"::call {name} {{}}", tools=[tool])
        create(api, "not called", tools=[tool])
        assert names(api, tool=name) == [called["id"]]

    async def test_a_background_response_is_found_while_it_waits(
        self, api: httpx2.Client, db: Database
    ) -> None:
        user = unique()
        queued = Known(ids.new_uuid(), user=user, is_background=True, status=Status.QUEUED)
        name = ids.response_id((await store(db, Caller(), queued)).id)
        assert names(api, user=user, background="true", status="queued") == [name]
        assert names(api, user=user, status="in_progress") == []
        assert names(api, user=user, background="false") == []

    async def test_attempts_are_counted(self, api: httpx2.Client, db: Database) -> None:
        user = unique()
        known = await store(db, Caller(), Known(ids.new_uuid(), user=user, is_background=True, attempts=2))
        assert names(api, user=user, has_attempts_over=1) == [ids.response_id(known.id)]
        assert names(api, user=user, has_attempts_over=2) == []

    def test_a_chain_and_a_conversation_are_found_by_their_ends(self, api: httpx2.Client) -> None:
        root = create(api)
        child = create(api, previous_response_id=root["id"])
        other = create(api, previous_response_id=root["id"])
        assert names(api, previous_response_id=root["id"]) == [other["id"], child["id"]]
        assert names(api, root=root["id"], order="asc") == [root["id"], child["id"], other["id"]]
        assert names(api, root=child["id"]) == []
        talk = begin(api)
        turns = [create(api, conversation=talk)["id"] for _ in range(2)]
        assert names(api, conversation=talk, order="asc") == turns
        assert names(api, root=talk, order="asc") == turns

    def test_times_are_seconds_or_iso_8601(self, api: httpx2.Client) -> None:
        user = unique()
        made = create(api, user=user)
        at = (int(made["id"].removeprefix("resp_"), 16) >> 80) / 1000
        moment = datetime.fromtimestamp(at, UTC)
        east = moment.astimezone(datetime.fromisoformat("2026-01-01T00:00:00+05:30").tzinfo)
        inside = [f"{at:.3f}", moment.isoformat(), east.isoformat(), moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), moment.replace(tzinfo=None).isoformat()]  # fmt: skip
        for text in inside:
            assert names(api, user=user, created_after=text) == [made["id"]], text
            assert names(api, user=user, created_before=text) == [], text
        later = (moment + timedelta(milliseconds=1)).isoformat()
        assert names(api, user=user, created_after=later) == []
        assert names(api, user=user, created_before=later) == [made["id"]]

    @pytest.mark.parametrize(
        "text", ["0", "0001-01-01", "9999-12-31", "99999999999", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1970-01-01", "20260101", "2026-W01-1"]
    )  # fmt: skip
    def test_far_times_are_times(self, api: httpx2.Client, text: str) -> None:
        for name in ("created_after", "created_before"):
            assert api.get(CREATE, params={name: text}).status_code == 200
            assert api.get(STATS, params={name: text}).status_code == 200
        assert api.get(STATS, params={"created_after": text, "created_before": text}).status_code == 200


class TestRows:
    def test_a_row_is_light_unless_more_is_wanted(self, api: httpx2.Client) -> None:
        user = unique()
        made = create(api, "hello", user=user)
        path = f"{CREATE}/{made['id']}"
        [light] = listed(api, user=user)
        assert light == {key: value for key, value in made.items() if key != "output"}
        [whole] = listed(api, user=user, include="input,output")
        given = api.get(f"{path}/input_items").json()["data"]
        assert whole == {**made, "input": given}
        for including in ({"include": "output"}, {"include[]": "output"}):
            assert listed(api, user=user, **including) == [made]
        assert listed(api, user=user, include=["input", "output"]) == [whole]

    def test_what_is_gated_is_asked_for_by_its_own_name(self, api: httpx2.Client) -> None:
        user, picture = unique(), "data:image/png;base64,AAAA"
        content = [{"type": "input_image", "image_url": picture, "detail": "auto"}]
        api.post(
            CREATE, json={"model": "offline", "input": [{"role": "user", "content": content}], "user": user}
        )
        seen = [
            listed(api, user=user, include=include)[0]["input"][0]["content"][0]["image_url"]
            for include in ("input", "input,message.input_image.image_url")
        ]
        assert seen == [None, picture]


class TestPages:
    @pytest.mark.parametrize("order", ["asc", "desc"])
    @pytest.mark.parametrize("by", ["user", "q"])
    def test_pages_join_without_gaps(self, api: httpx2.Client, order: str, by: str) -> None:
        word = unique()
        made = [create(api, word, user=word)["id"] for _ in range(7)]
        wanted = made if order == "asc" else made[::-1]
        seen, after = list[str](), None
        while True:
            params = {by: word, "order": order, "limit": 3, **({"after": after} if after else {})}
            page = api.get(CREATE, params=params).json()
            got = [row["id"] for row in page["data"]]
            assert (page["object"], page["first_id"], page["last_id"]) == ("list", got[0], got[-1])
            seen += got
            if not page["has_more"]:
                break
            after = page["last_id"]
            create(api, word, user=word) if order == "desc" else None
        assert seen == wanted

    def test_the_end_is_an_empty_page(self, api: httpx2.Client) -> None:
        empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        assert api.get(CREATE, params={"user": unique()}).json() == empty

    def test_what_is_deleted_is_gone_at_once(self, api: httpx2.Client) -> None:
        word = unique()
        made = create(api, word, user=word)
        assert names(api, q=word) == [made["id"]]
        api.delete(f"{CREATE}/{made['id']}")
        for params in ({"q": word}, {"user": word}):
            assert names(api, **params) == []


class TestStats:
    def test_groups_add_up(self, api: httpx2.Client) -> None:
        user = unique()
        made = [create(api, "::words 5 1", user=user) for _ in range(3)]
        api.post(CREATE, json={"model": "offline", "input": "::fail server_error", "user": user})
        today = datetime.now(UTC).date()
        by = {
            name: api.get(
                STATS,
                params={"group_by": name, "user": user, "created_after": str(today - timedelta(days=1))},
            ).json()
            for name in ("model", "status", "day", "user")
        }
        for name, found in by.items():
            assert (found["object"], found["group_by"]) == ("response.stats", name)
            assert sum(group["count"] for group in found["data"]) == 4
        completed = next(group for group in by["status"]["data"] if group["status"] == "completed")
        assert completed["count"] == 3
        assert completed["input_tokens"] == sum(each["usage"]["input_tokens"] for each in made)
        assert completed["output_tokens"] == sum(each["usage"]["output_tokens"] for each in made)
        assert completed["duration_ms"].keys() == {"p50", "p90", "p95", "p99"}
        assert [group["user"] for group in by["user"]["data"]] == [user]
        assert {group["model"] for group in by["model"]["data"]} == {"offline"}

    def test_days_are_whole_and_the_last_thirty(self, api: httpx2.Client) -> None:
        today = datetime.now(UTC).date()
        found = api.get(STATS).json()
        assert (found["first_day"], found["end_day"]) == (
            str(today - timedelta(days=29)),
            str(today + timedelta(days=1)),
        )
        asked = {"created_after": "2026-03-01T23:59:59Z", "created_before": "2026-03-03T00:00:00Z"}
        found = api.get(STATS, params=asked).json()
        assert (found["first_day"], found["end_day"], found["data"]) == ("2026-03-01", "2026-03-03", [])
        found = api.get(STATS, params={"created_before": "2026-03-03T00:00:00.001Z"}).json()
        assert found["end_day"] == "2026-03-04"

    def test_by_user_days_are_bounded(self, api: httpx2.Client) -> None:
        days = {"created_after": "2026-01-01", "created_before": "2026-04-04"}
        wrong = refusal(api.get(STATS, params={"group_by": "user", **days}))
        assert (wrong.status, wrong.code, wrong.param) == (400, "invalid_value", "created_after")
        assert "at most 92 days" in wrong.message
        fewer = {**days, "created_after": "2026-01-02"}
        for params in ({"group_by": "user", "user": "x", **days}, {"group_by": "model", **days}, {"group_by": "user", **fewer}):  # fmt: skip
            assert api.get(STATS, params=params).status_code == 200


class TestLineage:
    def test_a_family_is_told_by_pages(self, api: httpx2.Client) -> None:
        path = [create(api)]
        for _ in range(3):
            path.append(create(api, previous_response_id=path[-1]["id"]))
        brothers = [create(api, previous_response_id=path[1]["id"]) for _ in range(2)]
        nephew = create(api, previous_response_id=path[3]["id"])
        told = self.told(api, path[2]["id"])
        assert told["object"] == "response.lineage"
        assert (told["id"], told["depth"], told["root"]) == (path[2]["id"], 2, path[0]["id"])
        assert self.ids_of(told["ancestors"]) == [path[1]["id"], path[0]["id"]]
        assert self.ids_of(told["children"]) == [path[3]["id"]]
        assert self.ids_of(told["siblings"]) == [each["id"] for each in brothers]
        assert told["children"]["data"][0] == {
            "id": path[3]["id"],
            "created_at": path[3]["created_at"],
            "model": "offline",
            "status": "completed",
            "depth": 3,
            "previous_response_id": path[2]["id"],
            "conversation": None,
            "deleted": False,
        }
        one = self.told(api, nephew["id"], limit=1)
        assert (self.ids_of(one["ancestors"]), one["ancestors"]["has_more"]) == ([path[3]["id"]], True)
        next_page = self.told(api, nephew["id"], limit=2, ancestors_above=3)
        assert self.ids_of(next_page["ancestors"]) == [path[2]["id"], path[1]["id"]]
        assert self.told(api, nephew["id"], ancestors_above=10**30)["ancestors"]["has_more"] is False
        some = self.told(api, brothers[0]["id"], limit=1)
        assert (self.ids_of(some["siblings"]), some["siblings"]["has_more"]) == ([path[2]["id"]], True)
        rest = self.told(api, brothers[0]["id"], limit=1, siblings_after=path[2]["id"])
        assert (self.ids_of(rest["siblings"]), rest["siblings"]["has_more"]) == ([brothers[1]["id"]], False)

    def test_of_the_deleted_only_the_place_is_told(self, api: httpx2.Client) -> None:
        root = create(api)
        child = create(api, previous_response_id=root["id"])
        api.delete(f"{CREATE}/{root['id']}")
        told = self.told(api, child["id"])
        assert told["ancestors"]["data"] == [{"id": root["id"], "depth": 0, "deleted": True}]
        assert told["root"] == root["id"]
        assert refusal(api.get(f"{CREATE}/{root['id']}/lineage")).status == 404

    def test_a_conversation_is_a_root(self, api: httpx2.Client) -> None:
        """Of its forks too, and of a response that was chained on one of its own."""
        talk = begin(api)
        inside = [create(api, conversation=talk) for _ in range(2)]
        fork = api.post(f"/v1/conversations/{talk}/fork").json()["id"]
        forked = create(api, conversation=fork)
        chained = create(api, previous_response_id=inside[0]["id"])
        for name in (inside[1], forked, chained):
            told = self.told(api, name["id"])
            assert told["root"] == talk
        assert self.told(api, forked["id"])["conversation"] == fork
        assert self.ids_of(self.told(api, forked["id"])["ancestors"]) == [each["id"] for each in inside[::-1]]
        assert self.told(api, chained["id"])["conversation"] is None
        assert set(names(api, root=talk)) == {each["id"] for each in (*inside, forked, chained)}

    @staticmethod
    def told(api: httpx2.Client, name: str, **params: Any) -> dict[str, Any]:
        answer = api.get(f"{CREATE}/{name}/lineage", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @staticmethod
    def ids_of(page: dict[str, Any]) -> list[str]:
        return [each["id"] for each in page["data"]]


class TestStrangers:
    async def test_nothing_of_another_tenant_is_found(
        self, api: httpx2.Client, db: Database, caller: Caller
    ) -> None:
        word = unique()
        root = await store(db, caller, Known(ids.new_uuid()))
        mark: dict[str, Any] = {"user": word, "safety_identifier": word, "model": word, "error_code": word}
        theirs = await store(
            db, caller, Known(ids.new_uuid(), **mark, status=Status.FAILED, metadata={word: word}, tools=(word,), words=(word,), previous=root.id)
        )  # fmt: skip
        for params in (*({name: word} for name in (*mark, "tool", "q")), {f"metadata[{word}]": word}):
            assert names(api, **params) == []
        for params in ({"root": root.id}, {"previous_response_id": root.id}, {"root": theirs.id}):
            assert names(api, **{name: ids.response_id(key) for name, key in params.items()}) == []
        for name in ("user", "model"):
            assert api.get(STATS, params={name: word}).json()["data"] == []

    async def test_their_ids_are_told_as_missing_ones(
        self, api: httpx2.Client, db: Database, caller: Caller
    ) -> None:
        theirs = ids.response_id((await store(db, caller, Known(ids.new_uuid()))).id)
        answers = {
            refusal(api.get(f"{CREATE}/{name}/lineage")).message.replace(name, "")
            for name in (theirs, MISSING)
        }
        assert len(answers) == 1
        page = api.get(CREATE, params={"after": theirs, "order": "asc"})
        assert (page.status_code, page.json()["data"]) == (200, [])
