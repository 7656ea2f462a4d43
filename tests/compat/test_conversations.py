"""The official client keeps conversations: every call of `client.conversations` and of its items."""

from collections.abc import Generator
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.conversations import Conversation, ConversationDeletedResource, Message
from openai.types.responses import ResponseFunctionToolCallItem, ResponseFunctionToolCallOutputItem

from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS

MISSING = "conv_" + "0" * 32


@pytest.fixture
def client(server: LiveServer) -> Generator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="any", timeout=PATIENCE_SECONDS, max_retries=0) as client:
        yield client


def said(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


def text_of(item: Any) -> str:
    assert isinstance(item, Message)
    return "".join(getattr(part, "text", "") for part in item.content)


def test_conversations_are_created_retrieved_updated_and_deleted(client: OpenAI) -> None:
    made = client.conversations.create(metadata={"topic": "demo"}, items=[said("Hello!")])
    assert (made.object, made.metadata) == ("conversation", {"topic": "demo"})
    assert client.conversations.retrieve(made.id) == made
    updated = client.conversations.update(made.id, metadata={"topic": "project-x"})
    assert updated.metadata == {"topic": "project-x"}
    assert (updated.id, updated.created_at) == (made.id, made.created_at)
    assert client.conversations.update(made.id, metadata=None).metadata == {}
    deleted = client.conversations.delete(made.id)
    assert deleted == ConversationDeletedResource(id=made.id, object="conversation.deleted", deleted=True)
    with pytest.raises(NotFoundError, match=f"Conversation with id '{made.id}' not found"):
        client.conversations.retrieve(made.id)
    with pytest.raises(NotFoundError):
        client.conversations.delete(made.id)


def test_one_is_created_of_nothing(client: OpenAI) -> None:
    made = client.conversations.create()
    assert made.metadata == {}
    assert list(client.conversations.items.list(made.id)) == []


def test_items_are_created_retrieved_listed_and_deleted(client: OpenAI) -> None:
    conversation = client.conversations.create(items=[said("one")])
    items = client.conversations.items
    call: Any = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    output: Any = {"type": "function_call_output", "call_id": "call_1", "output": "1"}
    added = items.create(conversation.id, items=[said("two"), call, output])
    kinds = [type(item) for item in added.data]
    assert kinds == [Message, ResponseFunctionToolCallItem, ResponseFunctionToolCallOutputItem]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[2].id, False)
    for item in added.data:
        assert item.id
        assert items.retrieve(item.id, conversation_id=conversation.id) == item
    listed = list(items.list(conversation.id, order="asc"))
    assert text_of(listed[0]) == "one"
    assert listed[1:] == added.data
    assert list(items.list(conversation.id)) == listed[::-1]
    first = listed[0].id
    assert first
    left = items.delete(first, conversation_id=conversation.id)
    assert isinstance(left, Conversation)
    assert left == conversation
    assert list(items.list(conversation.id, order="asc")) == listed[1:]
    with pytest.raises(NotFoundError, match=f"Item with id '{first}' not found in conversation"):
        items.retrieve(first, conversation_id=conversation.id)


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_the_pager_walks_all_pages(client: OpenAI, limit: int) -> None:
    words = [f"number {number}" for number in range(7)]
    conversation = client.conversations.create(items=[said(word) for word in words])
    walk = client.conversations.items.list(conversation.id, limit=limit, order="asc")
    assert [text_of(item) for item in walk] == words
    walk = client.conversations.items.list(conversation.id, limit=limit)
    assert [text_of(item) for item in walk] == words[::-1]


def test_gated_fields_are_included(client: OpenAI) -> None:
    url = "data:image/png;base64,iVBORw0KGgo="
    image: Any = {"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "low"}]}
    conversation = client.conversations.create()
    items = client.conversations.items
    added = items.create(conversation.id, items=[image], include=["message.input_image.image_url"])
    name = added.data[0].id
    assert name

    def shown(item: Any) -> str | None:
        return item.content[0].image_url

    assert shown(added.data[0]) == url
    assert shown(items.retrieve(name, conversation_id=conversation.id)) is None
    included = items.retrieve(
        name, conversation_id=conversation.id, include=["message.input_image.image_url"]
    )
    assert shown(included) == url
    (listed,) = items.list(conversation.id, include=["message.input_image.image_url"])
    assert shown(listed) == url


def test_responses_are_made_in_it(client: OpenAI) -> None:
    conversation = client.conversations.create(items=[said("one")])
    first = client.responses.create(model="offline", input="two", conversation=conversation.id)
    assert first.conversation
    assert first.conversation.id == conversation.id
    second = client.responses.create(model="offline", input="three", conversation={"id": conversation.id})
    assert "5 items" not in first.output_text
    assert "4 items" in second.output_text
    listed = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.id for item in listed[2::2]] == [first.output[0].id, second.output[0].id]


def test_mistakes_are_told_as_they_are_by_the_original(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.conversations.create(items=[said("x")] * 21)
    assert (refused.value.code, refused.value.param) == ("array_above_max_length", "items")
    with pytest.raises(BadRequestError, match="Expected an ID that begins with 'conv'"):
        client.conversations.retrieve("foo")
    with pytest.raises(NotFoundError) as missing:
        client.conversations.items.list(MISSING)
    assert (missing.value.code, missing.value.param) == (None, None)


def test_what_the_original_lacks_is_there_for_those_who_ask(client: OpenAI) -> None:
    topic = client.conversations.create().id
    names = [client.conversations.create(metadata={"topic": topic}, items=[said("hi")]).id for _ in range(2)]
    options: Any = {"params": {"metadata": {"topic": topic}}}
    page = client.get("/conversations", cast_to=dict, options=options)
    assert [row["id"] for row in page["data"]] == names[::-1]
    forked = client.post(
        f"/conversations/{names[0]}/fork", cast_to=Conversation, body={"metadata": {"a": "b"}}
    )
    assert forked.metadata == {"a": "b"}
    ours, theirs = (list(client.conversations.items.list(name)) for name in (names[0], forked.id))
    assert ours == theirs


async def test_the_asynchronous_client_does_the_same(server: LiveServer) -> None:
    async with AsyncOpenAI(base_url=server.base_url, api_key="any", timeout=PATIENCE_SECONDS) as client:
        made = await client.conversations.create(items=[said("one"), said("two")])
        assert await client.conversations.retrieve(made.id) == made
        assert (await client.conversations.update(made.id, metadata={"a": "b"})).metadata == {"a": "b"}
        added = await client.conversations.items.create(made.id, items=[said("three")])
        (item,) = added.data
        assert item.id
        assert await client.conversations.items.retrieve(item.id, conversation_id=made.id) == item
        walked = [each async for each in client.conversations.items.list(made.id, limit=1, order="asc")]
        assert [text_of(each) for each in walked] == ["one", "two", "three"]
        await client.conversations.items.delete(item.id, conversation_id=made.id)
        assert (await client.conversations.delete(made.id)).deleted
