"""The items of a conversation: appended, read in pages, taken out."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from app import ids
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
    pages,
    path_of,
    remove,
    said,
    texts,
    texts_of,
)

PNG = "data:image/png;base64,iVBORw0KGgo="
IMAGE = "message.input_image.image_url"
ODD = [
    NO_ITEM,
    "%00",
    "msg_%00",
    "x",
    "msg_" + "0" * 32,
    "msg_" + "0" * 32 + "ffffffffffff",
    "msg_" + "f" * 36,
    "msg_" + "f" * 60,
    "%ff%fe",
    "_",
    "%F0%9F%98%80",
    "x" * 5000,
]


def absent(name: str) -> Any:
    words = f"Item with id '{name}' not found in conversation."
    return invalid(words, code=None, param=None, status=404)


class TestAdd:
    def test_what_was_made_is_answered_in_the_order_of_the_request(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        answer = api.post(path_of(name), json={"items": [said("one"), called(), gave()]}).json()
        made = answer["data"]
        assert [item["type"] for item in made] == ["message", "function_call", "function_call_output"]
        assert answer == {
            "object": "list",
            "data": made,
            "first_id": made[0]["id"],
            "last_id": made[2]["id"],
            "has_more": False,
        }
        assert items_of(api, name)[1:] == made

    def test_items_are_in_the_resource_form(self, api: httpx2.Client) -> None:
        message, call = add(api, begin(api), "one", called())
        assert message == {
            "id": message["id"],
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "one"}],
        }
        assert message["id"].startswith("msg_")
        assert call == {**called(), "id": call["id"], "status": "completed"}
        assert call["id"].startswith("fc_")

    def test_an_id_that_a_client_brings_stays(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        made = add(api, name, said("one", id="msg_mine"), "two")
        assert made[0]["id"] == "msg_mine"
        assert api.get(path_of(name, "msg_mine")).json() == made[0]
        assert items_of(api, name, after="msg_mine") == made[1:]

    @pytest.mark.parametrize("is_minted", [True, False])
    def test_an_id_can_be_there_only_once(self, api: httpx2.Client, *, is_minted: bool) -> None:
        name = begin(api, "zero")
        item = said("one") if is_minted else said("one", id="msg_mine")
        (made,) = add(api, name, item)
        told = refusal(api.post(path_of(name), json={"items": [said("two"), made]}))
        assert (told.status, told.param) == (400, "items")
        assert told.message.startswith(f"Duplicate item found with id {made['id']}. ")
        assert texts_of(api, name) == ["zero", "one"]

    def test_the_same_id_may_be_in_another_conversation(self, api: httpx2.Client) -> None:
        ours = begin(api, "zero")
        (made,) = items_of(api, ours)
        theirs = begin(api, "another")
        assert add(api, theirs, made) == [made]
        assert api.get(path_of(theirs, made["id"])).json() == made
        remove(api, theirs, made)
        assert items_of(api, ours) == [made]

    def test_what_was_taken_out_may_come_again(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        (made,) = add(api, name, said("one", id="msg_mine"))
        for _ in range(2):
            remove(api, name, made)
            assert refusal(api.get(path_of(name, "msg_mine"))) == absent("msg_mine")
            assert add(api, name, made) == [made]
        assert texts_of(api, name) == ["zero", "one"]
        assert api.get(path_of(name, "msg_mine")).json() == made

    def test_they_are_what_the_next_response_is_given(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        add(api, name, "one", called(), gave())
        response = create(api, "two", conversation=name)
        assert "5 items" in text(response)
        given = api.get(f"{CREATE}/{response['id']}/input_items", params={"order": "asc"}).json()["data"]
        assert items_of(api, name) == given + response["output"]

    def test_gated_fields_are_shown_to_those_who_ask(self, api: httpx2.Client) -> None:
        content = [{"type": "input_image", "image_url": PNG, "detail": "low"}]
        item = {"role": "user", "content": content}
        name = begin(api)
        hidden = add(api, name, item)[0]
        asked = {"include[]": IMAGE}
        shown = api.post(path_of(name), params=asked, json={"items": [item]}).json()["data"][0]
        assert (hidden["content"][0]["image_url"], shown["content"][0]["image_url"]) == (None, PNG)
        assert items_of(api, name)[0] == hidden
        assert items_of(api, name, **asked)[1] == shown
        for query, expected in (({}, None), (asked, PNG)):
            read = api.get(path_of(name, shown["id"]), params=query).json()
            assert read["content"][0]["image_url"] == expected

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_an_unknown_include_is_refused(self, api: httpx2.Client, method: str) -> None:
        name = begin(api, "hi")
        body = {"items": [said("x")]} if method == "POST" else None
        told = refusal(api.request(method, path_of(name), params={"include": "bogus"}, json=body))
        assert (told.status, told.code, told.param) == (400, "invalid_value", "include[0]")
        assert texts_of(api, name) == ["hi"]


class TestPages:
    @pytest.fixture
    def seven(self, api: httpx2.Client) -> tuple[str, list[dict[str, Any]]]:
        """A conversation of turns of every kind, and its items, oldest first; some more were taken out."""
        name = begin(api, "one", "gone", "two")
        remove(api, name, items_of(api, name)[1])
        (alone,) = add(api, name, "all of its turn")
        remove(api, name, alone)
        create(api, "three", conversation=name)
        add(api, name, "five", "six", "seven")
        items = items_of(api, name, limit=100)
        assert texts(items)[:3] + texts(items)[4:] == ["one", "two", "three", "five", "six", "seven"]
        return name, items

    @pytest.mark.parametrize("order", ["asc", "desc"])
    @pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8])
    def test_pages_of_any_size_make_up_the_whole(
        self, api: httpx2.Client, seven: tuple[str, list[dict[str, Any]]], order: str, limit: int
    ) -> None:
        name, items = seven
        assert len(items) == 7
        sizes = [len(page) for page in pages(api, name, order=order, limit=limit)]
        assert sizes == [limit] * (7 // limit) + [7 % limit] * bool(7 % limit)
        assert items_of(api, name, order=order, limit=limit) == items[:: 1 if order == "asc" else -1]

    def test_the_newest_come_first_20_at_a_time(self, api: httpx2.Client) -> None:
        name = begin(api, *(f"{number}" for number in range(20)))
        add(api, name, "20")
        page = api.get(path_of(name)).json()
        assert texts(page["data"]) == [f"{number}" for number in range(20, 0, -1)]
        assert page["has_more"] is True

    def test_an_empty_one_has_an_empty_page(self, api: httpx2.Client) -> None:
        page = api.get(path_of(begin(api))).json()
        assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}

    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_they_neither_skip_nor_repeat_while_others_append(self, api: httpx2.Client, limit: int) -> None:
        """Forwards what came meanwhile is read last; backwards it is not read."""
        name = begin(api, *"0123456789")
        walk = {order: pages(api, name, order=order, limit=limit) for order in ("asc", "desc")}
        read: dict[str, list[dict[str, Any]]] = {"asc": [], "desc": []}
        for number in range(10, 20):
            for order, some in walk.items():
                read[order] += next(some, [])
            add(api, name, *[str(number), "more"][: 1 + number % 2])
        assert texts(read["desc"]) == [*"9876543210"]
        assert len(read["asc"]) >= 10
        assert read["asc"] == items_of(api, name)[: len(read["asc"])]

    def test_each_request_stays_together_though_many_come_at_once(self, api: httpx2.Client) -> None:
        """Nothing is lost, doubled or interleaved, and a reader meanwhile sees a part of the same order."""
        name = begin(api)
        with ThreadPoolExecutor(6) as pool:
            writers = [pool.submit(add, api, name, f"{n}", f"{n}b", f"{n}c") for n in range(30)]
            readers = [pool.submit(items_of, api, name, limit=2) for _ in range(3)]
            added = [writer.result() for writer in writers]
        items = items_of(api, name, limit=100)
        together = sorted(added, key=lambda three: items.index(three[0]))
        assert items == [item for three in together for item in three]
        for reader in readers:
            read = reader.result()
            assert read == items[: len(read)]

    def test_an_item_that_is_taken_out_meanwhile_moves_nothing(self, api: httpx2.Client) -> None:
        name = begin(api, "0", "1", "2", "3")
        items = items_of(api, name)
        walk = pages(api, name, order="asc", limit=2)
        assert next(walk) == items[:2]
        remove(api, name, items[0])
        assert next(walk) == items[2:]

    @pytest.mark.parametrize("order", ["asc", "desc"])
    def test_a_list_can_be_emptied_page_by_page(self, api: httpx2.Client, order: str) -> None:
        name = fork(api, begin(api, "0", "1", "2", "3"))
        add(api, name, "4", said("5", id="msg_mine"))
        for page in pages(api, name, order=order, limit=2):
            for item in page:
                remove(api, name, item)
        assert items_of(api, name) == []

    def test_an_item_that_came_back_is_a_cursor_where_it_is_now(self, api: httpx2.Client) -> None:
        name = begin(api)
        add(api, name, mine := said("one", id="msg_mine"), "two")
        remove(api, name, mine)
        add(api, name, mine, "three")
        assert texts(items_of(api, name, after="msg_mine")) == ["three"]

    @pytest.mark.parametrize("after", ODD)
    def test_an_unknown_cursor_is_refused(self, api: httpx2.Client, after: str) -> None:
        told = refusal(api.get(f"{path_of(begin(api, 'hi'))}?after={after}"))
        assert (told.status, told.code, told.param) == (400, "invalid_value", "after")
        assert told.message.startswith("Invalid 'after': no item with id '")

    def test_so_is_an_item_of_another_conversation(self, api: httpx2.Client) -> None:
        (item,) = items_of(api, begin(api, "hi"))
        told = refusal(api.get(path_of(begin(api, "hi")), params={"after": item["id"]}))
        assert told == invalid(
            f"Invalid 'after': no item with id '{item['id']}' in this list.", param="after"
        )


class TestOne:
    def test_every_item_is_found_by_its_id(self, api: httpx2.Client) -> None:
        name = begin(api, "one", "two")
        add(api, name, called("call_9"))
        add(api, name, said("three", id="msg_mine"), gave("call_9"))
        create(api, "::reason why\nfour", conversation=name)
        items = items_of(api, name)
        assert len(items) == 8
        assert [api.get(path_of(name, item["id"])).json() for item in items] == items

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    @pytest.mark.parametrize("item_id", ODD)
    def test_an_id_of_nothing_is_not_found(self, api: httpx2.Client, method: str, item_id: str) -> None:
        name = begin(api, "hi")
        told = refusal(api.request(method, path_of(name, item_id)))
        assert (told.status, told.code, told.param) == (404, None, None)
        assert texts_of(api, name) == ["hi"]

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    def test_an_item_of_another_conversation_is_not_found(self, api: httpx2.Client, method: str) -> None:
        (item,) = items_of(api, theirs := begin(api, "theirs"))
        (brought,) = add(api, theirs, said("brought", id="msg_theirs"))
        response = create(api)
        for item_id in (item["id"], brought["id"], response["output"][0]["id"]):
            answer = api.request(method, path_of(begin(api, "ours"), item_id))
            assert refusal(answer) == absent(item_id)
        assert texts_of(api, theirs) == ["theirs", "brought"]

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    def test_the_id_counts_as_a_whole(self, api: httpx2.Client, method: str) -> None:
        name = begin(api, "hi")
        (item,) = items_of(api, name)
        turn = ids.parse_item_id(item["id"])
        assert turn
        for item_id in (ids.item_id("reasoning", turn[0], 0), ids.item_id("message", turn[0], 1)):
            assert refusal(api.request(method, path_of(name, item_id))) == absent(item_id)


class TestRemove:
    def test_the_conversation_is_answered(self, api: httpx2.Client) -> None:
        name = begin(api, "hi", metadata={"a": "b"})
        (item,) = items_of(api, name)
        assert api.delete(path_of(name, item["id"])).json() == api.get(f"{CONVERSATIONS}/{name}").json()
        assert refusal(api.get(path_of(name, item["id"]))) == absent(item["id"])
        assert refusal(api.delete(path_of(name, item["id"]))) == absent(item["id"])

    @pytest.mark.parametrize("place", range(3))
    def test_what_stood_around_it_closes_up(self, api: httpx2.Client, place: int) -> None:
        name = begin(api, "0", "1", "2")
        items = items_of(api, name)
        remove(api, name, items[place])
        left = [item for item in items if item is not items[place]]
        assert items_of(api, name) == left
        assert items_of(api, name, order="desc", limit=1) == left[::-1]
        (added,) = add(api, name, "3")
        assert items_of(api, name) == [*left, added]

    def test_the_next_response_is_not_given_it_and_the_last_one_was(self, api: httpx2.Client) -> None:
        name = begin(api, "zero", "one")
        before = create(api, "two", conversation=name)
        assert "3 items" in text(before)
        remove(api, name, items_of(api, name)[1])
        remove(api, name, items_of(api, name)[1])
        after = create(api, "three", conversation=name)
        assert "3 items" in text(after)
        given = {
            response["id"]: texts(
                api.get(f"{CREATE}/{response['id']}/input_items", params={"order": "asc"}).json()["data"]
            )
            for response in (before, after)
        }
        assert given[before["id"]] == ["zero", "one", "two"]
        assert given[after["id"]] == ["zero", text(before), "three"]
        assert api.get(f"{CREATE}/{before['id']}").json() == before

    def test_all_of_it_can_be_taken_out(self, api: httpx2.Client) -> None:
        name = begin(api, "zero", "one")
        for item in items_of(api, name):
            remove(api, name, item)
        assert items_of(api, name) == []
        assert texts_of(api, name) == []
        assert text(create(api, "two", conversation=name))

    def test_without_its_call_an_output_is_refused_by_the_next_create(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        call, output = add(api, name, called(), gave())
        remove(api, name, call)
        for more in ([], [said("two")]):
            answer = api.post(CREATE, json={"model": "offline", "input": more, "conversation": name})
            words = "No tool call found for function call output with call_id call_1."
            assert refusal(answer) == invalid(words, code=None, param="input")
        remove(api, name, output)
        assert create(api, "two", conversation=name)["status"] == "completed"

    def test_without_its_output_a_call_waits_again(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        _, output = add(api, name, called(), gave())
        remove(api, name, output)
        answer = api.post(CREATE, json={"model": "offline", "input": "two", "conversation": name})
        words = "No tool output found for function call call_1."
        assert refusal(answer) == invalid(words, code=None, param="input")
        assert create(api, [gave()], conversation=name)["status"] == "completed"

    def test_without_either_nothing_is_missing(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        (call,) = add(api, name, called())
        remove(api, name, call)
        assert create(api, "two", conversation=name)["status"] == "completed"

    def test_an_output_may_come_long_after_its_call(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        add(api, name, called())
        add(api, name, gave())
        add(api, name, gave())
        assert create(api, "two", conversation=name)["status"] == "completed"

    def test_an_output_for_nothing_is_told_at_the_next_create(self, api: httpx2.Client) -> None:
        name = begin(api, "zero")
        (output,) = add(api, name, gave("call_7"))
        answer = api.post(CREATE, json={"model": "offline", "input": "two", "conversation": name})
        words = "No tool call found for function call output with call_id call_7."
        assert refusal(answer) == invalid(words, code=None, param="input")
        remove(api, name, output)
        assert create(api, "two", conversation=name)["status"] == "completed"
