"""Forks: what was before is shared, what comes after is not."""

from typing import Any

import httpx2
import pytest

from tests.api.asking import CREATE, create, invalid, refusal, text
from tests.api.conversing import (
    CONVERSATIONS,
    NO_ITEM,
    add,
    begin,
    called,
    fork,
    gave,
    items_of,
    path_of,
    remove,
    said,
    texts_of,
)
from tests.api.test_conversation_items import ODD

WORDS = ["zero", "one", "two", "three"]


@pytest.fixture
def four(api: httpx2.Client) -> str:
    """Four items in two turns."""
    name = begin(api, *WORDS[:2])
    add(api, name, *WORDS[2:])
    return name


class TestFork:
    @pytest.mark.parametrize("body", [b"", b"{}", b'{"item_id":null,"metadata":null}'])
    def test_it_is_a_conversation_with_the_same_items(
        self, api: httpx2.Client, four: str, body: bytes
    ) -> None:
        answer = api.post(f"{CONVERSATIONS}/{four}/fork", content=body)
        assert answer.status_code == 200, answer.text
        made = answer.json()
        assert (made["object"], made["metadata"]) == ("conversation", {})
        assert made["id"] != four
        assert api.get(f"{CONVERSATIONS}/{made['id']}").json() == made
        assert items_of(api, made["id"]) == items_of(api, four)

    def test_it_has_metadata_of_its_own(self, api: httpx2.Client) -> None:
        name = begin(api, metadata={"a": "1", "b": "2"})
        made = api.post(f"{CONVERSATIONS}/{name}/fork", json={"metadata": {"a": "3"}}).json()
        assert made["metadata"] == {"a": "3"}
        assert api.get(f"{CONVERSATIONS}/{name}").json()["metadata"] == {"a": "1", "b": "2"}

    @pytest.mark.parametrize("place", range(4))
    def test_it_ends_with_the_item_that_is_named(self, api: httpx2.Client, four: str, place: int) -> None:
        items = items_of(api, four)
        forked = fork(api, four, items[place])
        assert items_of(api, forked) == items[: place + 1]
        assert items_of(api, forked, order="desc", limit=1) == items[place::-1]
        assert items_of(api, four) == items

    def test_what_either_says_later_the_other_does_not_see(self, api: httpx2.Client, four: str) -> None:
        early, late = fork(api, four, items_of(api, four)[0]), fork(api, four)
        add(api, four, "ours")
        add(api, early, "early", "early 2")
        add(api, late, "late")
        add(api, four, "ours 2")
        assert texts_of(api, four) == [*WORDS, "ours", "ours 2"]
        assert texts_of(api, early) == ["zero", "early", "early 2"]
        assert texts_of(api, late) == [*WORDS, "late"]

    def test_pages_go_on_from_one_to_the_other(self, api: httpx2.Client, four: str) -> None:
        forked = fork(api, fork(api, four, items_of(api, four)[2]))
        add(api, forked, "a", "b", "c")
        items = items_of(api, forked, limit=100)
        for limit in (1, 2, 3, 4, 5):
            assert items_of(api, forked, limit=limit) == items
            assert items_of(api, forked, limit=limit, order="desc") == items[::-1]

    @pytest.mark.parametrize("place", range(6))
    def test_a_fork_of_a_fork_may_end_anywhere(self, api: httpx2.Client, four: str, place: int) -> None:
        first = fork(api, four, items_of(api, four)[2])
        add(api, first, "a")
        second = fork(api, first)
        add(api, second, "b", "c")
        items = items_of(api, second)
        third = fork(api, second, items[place])
        assert items_of(api, third) == items[: place + 1]
        add(api, third, "d")
        fourth = fork(api, third)
        add(api, third, "e")
        add(api, second, "f")
        words = ["zero", "one", "two", "a", "b", "c"]
        assert texts_of(api, fourth) == [*words[: place + 1], "d"]
        assert texts_of(api, third) == [*words[: place + 1], "d", "e"]
        assert texts_of(api, second) == [*words, "f"]

    def test_of_nothing_comes_nothing(self, api: httpx2.Client) -> None:
        forked = fork(api, fork(api, begin(api)))
        assert items_of(api, forked) == []
        add(api, forked, "hi")
        assert texts_of(api, fork(api, forked)) == ["hi"]

    def test_it_outlives_what_it_came_from(self, api: httpx2.Client, four: str) -> None:
        forked = fork(api, fork(api, four))
        api.delete(f"{CONVERSATIONS}/{four}")
        assert texts_of(api, forked) == WORDS
        assert "5 items" in text(create(api, "four", conversation=forked))

    def test_every_item_is_found_in_it(self, api: httpx2.Client, four: str) -> None:
        add(api, four, said("mine", id="msg_mine"))
        create(api, "hi", conversation=four)
        forked = fork(api, four)
        for item in items_of(api, four):
            assert api.get(path_of(forked, item["id"])).json() == item
        (later,) = add(api, four, "later")
        assert api.get(path_of(forked, later["id"])).status_code == 404

    def test_what_is_behind_the_cut_is_not_found(self, api: httpx2.Client, four: str) -> None:
        items = items_of(api, four)
        forked = fork(api, four, items[0])
        found = [api.get(path_of(forked, item["id"])).status_code for item in items]
        assert found == [200, 404, 404, 404]
        assert api.get(path_of(forked), params={"after": items[1]["id"]}).status_code == 400

    def test_an_id_that_it_has_already_is_refused(self, api: httpx2.Client, four: str) -> None:
        add(api, four, said("mine", id="msg_mine"))
        items = items_of(api, four)
        for forked, status in ((fork(api, four), 400), (fork(api, four, items[3]), 200)):
            answer = api.post(path_of(forked), json={"items": [said("other", id="msg_mine")]})
            assert answer.status_code == status


class TestResponses:
    def test_both_go_on(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        first = create(api, "one", conversation=name)
        forked = fork(api, name)
        cut = fork(api, name, items_of(api, name)[1])
        ours, theirs = (create(api, "two", conversation=each) for each in (name, forked))
        assert "4 items" in text(ours)
        assert "4 items" in text(theirs)
        assert "3 items" in text(create(api, "two", conversation=cut))
        assert items_of(api, name)[:3] == items_of(api, forked)[:3]
        assert items_of(api, name)[2] == first["output"][0]
        assert items_of(api, name)[3:] != items_of(api, forked)[3:]

    def test_a_call_that_waited_waits_in_both(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        add(api, name, called())
        forked = fork(api, name)
        add(api, name, gave())
        assert create(api, "one", conversation=name)["status"] == "completed"
        answer = api.post(CREATE, json={"model": "offline", "input": "one", "conversation": forked})
        assert "No tool output found" in refusal(answer).message
        assert create(api, [gave()], conversation=forked)["status"] == "completed"

    def test_a_cut_between_a_call_and_its_output_leaves_it_open(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        call, _ = add(api, name, called(), gave())
        forked = fork(api, name, call)
        answer = api.post(CREATE, json={"model": "offline", "input": "one", "conversation": forked})
        assert "No tool output found" in refusal(answer).message
        assert create(api, [gave()], conversation=forked)["status"] == "completed"


class TestRemoval:
    def test_what_was_taken_out_before_is_in_neither(self, api: httpx2.Client, four: str) -> None:
        items = items_of(api, four)
        remove(api, four, items[1])
        whole, cut = fork(api, four), fork(api, four, items[2])
        again = fork(api, whole)
        assert texts_of(api, whole) == texts_of(api, again) == ["zero", "two", "three"]
        assert texts_of(api, cut) == ["zero", "two"]
        assert api.get(path_of(whole, items[1]["id"])).status_code == 404

    def test_what_was_taken_out_lately_is_in_no_fork_at_an_earlier_item(
        self, api: httpx2.Client, four: str
    ) -> None:
        items = items_of(api, four)
        add(api, four, "four")
        remove(api, four, items[0])
        assert texts_of(api, fork(api, four, items[1])) == ["one"]

    @pytest.mark.parametrize("place", range(4))
    def test_what_either_takes_out_later_the_other_keeps(
        self, api: httpx2.Client, four: str, place: int
    ) -> None:
        items = items_of(api, four)
        forked, another = fork(api, four), fork(api, four)
        left = [item for item in items if item is not items[place]]
        remove(api, forked, items[place])
        assert [items_of(api, name) for name in (forked, four, another)] == [left, items, items]
        remove(api, four, items[place])
        assert [items_of(api, name) for name in (forked, four, another)] == [left, left, items]
        assert texts_of(api, fork(api, another)) == WORDS

    def test_a_fork_of_a_fork_sees_what_its_own_line_took_out(self, api: httpx2.Client, four: str) -> None:
        items = items_of(api, four)
        first = fork(api, four)
        add(api, first, "a")
        second = fork(api, first)
        remove(api, first, items[0])
        third = fork(api, first)
        remove(api, second, items[1])
        fourth = fork(api, second, items[2])
        remove(api, four, items[2])
        assert texts_of(api, four) == ["zero", "one", "three"]
        assert texts_of(api, first) == ["one", "two", "three", "a"]
        assert texts_of(api, second) == ["zero", "two", "three", "a"]
        assert texts_of(api, third) == ["one", "two", "three", "a"]
        assert texts_of(api, fourth) == ["zero", "two"]

    def test_the_model_is_given_what_is_seen(self, api: httpx2.Client, four: str) -> None:
        items = items_of(api, four)
        remove(api, four, items[1])
        forked = fork(api, four, items[2])
        remove(api, forked, items[0])
        add(api, forked, "new")
        assert "3 items" in text(create(api, "last", conversation=forked))
        assert "4 items" in text(create(api, "last", conversation=four))

    def test_a_call_taken_out_after_a_fork_is_missed_here_only(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        call, _ = add(api, name, called(), gave())
        forked = fork(api, name)
        remove(api, forked, call)
        answer = api.post(CREATE, json={"model": "offline", "input": "one", "conversation": forked})
        assert "No tool call found" in refusal(answer).message
        answer = api.post(
            CREATE, json={"model": "offline", "input": "one", "conversation": fork(api, forked)}
        )
        assert "No tool call found" in refusal(answer).message
        assert create(api, "one", conversation=name)["status"] == "completed"


class TestRefusals:
    def absent(self, name: str) -> Any:
        words = f"Item with id '{name}' not found in conversation."
        return invalid(words, code=None, param=None, status=404)

    def test_an_item_that_is_not_there_is_not_found(self, api: httpx2.Client, four: str) -> None:
        (foreign,) = items_of(api, begin(api, "theirs"))
        gone = items_of(api, four)[0]
        remove(api, four, gone)
        for item_id in (NO_ITEM, "x", foreign["id"], gone["id"]):
            answer = api.post(f"{CONVERSATIONS}/{four}/fork", json={"item_id": item_id})
            assert refusal(answer) == self.absent(item_id)

    @pytest.mark.parametrize("item_id", [*ODD, "\0", "msg_\0", "\ud7ff", "\U0001f600"])
    def test_odd_ids_are_refused(self, api: httpx2.Client, four: str, item_id: str) -> None:
        answer = api.post(f"{CONVERSATIONS}/{four}/fork", json={"item_id": item_id})
        assert refusal(answer).status in {400, 404}
