"""The official client names a prompt: foreground, stream, and with typed parts as variables."""

from collections.abc import Generator

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import ResponsePromptParam

from tests.api.conftest import client_of
from tests.live import LiveServer
from tests.prompting import keep, user
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def client(server: LiveServer) -> Generator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="any", timeout=PATIENCE_SECONDS, max_retries=0) as client:
        yield client


@pytest.fixture
def prompt_id(server: LiveServer) -> str:
    with client_of(server) as api:
        return keep(api, {"model": "offline", "messages": [user("Weather in {{city}}? {{map}}")]})["id"]


def test_a_prompt_brings_the_model_and_its_messages(client: OpenAI, prompt_id: str) -> None:
    made = client.responses.create(
        input=[],
        prompt={
            "id": prompt_id,
            "version": "1",
            "variables": {
                "city": "Oslo",
                "map": {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
            },
        },
    )
    assert "Weather in Oslo?" in made.output_text
    assert made.prompt
    assert (made.prompt.id, made.prompt.version) == (prompt_id, "1")
    assert isinstance(made.instructions, list)
    assert made.to_dict() == client.responses.retrieve(made.id).to_dict()


def test_a_stream_says_it_too(client: OpenAI, prompt_id: str) -> None:
    prompt: ResponsePromptParam = {"id": prompt_id, "variables": {"city": "Oslo", "map": "-"}}
    with client.responses.stream(model="offline", input="hi", prompt=prompt) as stream:
        made = stream.get_final_response()
    assert made.prompt
    assert made.prompt.version == "1"
    assert "Weather in Oslo? -" in made.output_text


def test_what_does_not_fit_is_the_clients_own_error(client: OpenAI, prompt_id: str) -> None:
    with pytest.raises(NotFoundError, match="Prompt with id 'pmpt_x' not found"):
        client.responses.create(model="offline", input="hi", prompt={"id": "pmpt_x"})
    with pytest.raises(BadRequestError, match=r"prompt\.variables\.city"):
        client.responses.create(input="hi", prompt={"id": prompt_id, "variables": {"map": "-"}})
    with pytest.raises(NotFoundError, match="version '9'"):
        client.responses.create(input="hi", prompt={"id": prompt_id, "version": "9"})
