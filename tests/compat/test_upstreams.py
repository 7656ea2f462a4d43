"""The same long conversation, whatever speaks behind the server: the chain is ours, not the upstream's."""

from collections.abc import Generator

import pytest
from openai import BadRequestError, OpenAI

from tests.compat.chat_model import chat_model
from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS

CONFIG = """
[[upstreams]]
name = "behind"
protocol = "{protocol}"
base_url = "{url}"
models = ["behind-*"]
aliases = {{ model = "{model}" }}
"""


@pytest.fixture(scope="module", params=["responses", "chat_completions"])
def server(request: pytest.FixtureRequest, database_url: str, server: LiveServer) -> Generator[LiveServer]:
    """A server whose upstream is another server of ours, or a Chat Completions server."""
    if request.param == "responses":
        config = CONFIG.format(protocol=request.param, url=server.base_url, model="offline")
        with LiveServer(database_url, config) as live:
            yield live
        return
    with chat_model() as url:
        config = CONFIG.format(protocol=request.param, url=url, model="told")
        with LiveServer(database_url, config) as live:
            yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="any", timeout=PATIENCE_SECONDS) as client:
        yield client


def say(client: OpenAI, text: str, previous: str | None, *, streamed: bool = False) -> tuple[str, str]:
    """The id and the text of an answer."""
    if not streamed:
        whole = client.responses.create(model="model", input=text, previous_response_id=previous)
        return whole.id, whole.output_text
    with client.responses.stream(model="model", input=text, previous_response_id=previous) as stream:
        final = stream.get_final_response()
    return final.id, final.output_text


def told(turn: int, last: str) -> str:
    items = "1 item" if turn == 1 else f"{2 * turn - 1} items"
    return f'I was given {items}; the first user message was "Line 1", the last was "{last}".'


def test_fifty_turns_branches_a_restart_and_a_deletion(client: OpenAI, server: LiveServer) -> None:
    ids: list[str] = []
    for turn in range(1, 51):
        if turn == 26:
            server.restart()
        name, text = say(client, f"Line {turn}", ids[-1] if ids else None, streamed=turn % 2 == 0)
        assert text == told(turn, f"Line {turn}")
        ids.append(name)
    for side in ("left", "right"):
        assert say(client, side, ids[9])[1] == told(11, side)

    listed = [item.id for item in client.responses.input_items.list(ids[-1], limit=20)]
    assert len(listed) == len(set(listed)) == 99
    client.responses.delete(ids[24])
    assert say(client, "Line 51", ids[-1])[1] == told(51, "Line 51")
    with pytest.raises(BadRequestError) as refused:
        say(client, "too late", ids[24])
    assert refused.value.code == "previous_response_not_found"


def test_the_upstream_names_the_model(client: OpenAI) -> None:
    answer = client.responses.create(model="model", input="Who are you?")
    assert answer.model in {"offline", "told-1"}
    assert client.responses.retrieve(answer.id).model == answer.model
