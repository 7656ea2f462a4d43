"""`prompt` on create: what the model is given, what is answered, and what is carried over."""

from typing import Any

import httpx2
import pytest

from app import ids
from app.api.prompting import prompted
from tests.api.asking import CREATE, Refusal, create, frames, refusal, stream, text
from tests.api.conversing import begin, items_of, texts
from tests.api.running import turn
from tests.prompting import NO_PROMPT, PROMPTS, extend, keep, message, user

GREETING = {
    "model": "offline",
    "instructions": "Speak {{language}}.",
    "messages": [user("I am {{name}}."), {"role": "assistant", "content": "Hello {{name}}!"}],
}
RENDERED = [
    message("developer", "Speak Norwegian."),
    message("user", "I am Kari."),
    message("assistant", "Hello Kari!"),
]
FILLED = {"language": "Norwegian", "name": "Kari"}
SEEN = 'I was given 4 items; the first user message was "I am Kari.", the last was "hi".'


def ask(api: httpx2.Client, **params: Any) -> httpx2.Response:
    return api.post(CREATE, json={"input": "hi", **params})


def told(answer: httpx2.Response) -> Refusal:
    return refusal(answer)


@pytest.fixture(scope="module")
def greeting(api: httpx2.Client) -> str:
    return keep(api, GREETING)["id"]


def given_to(api: httpx2.Client, response: dict[str, Any]) -> list[str]:
    query = {"order": "asc", "limit": 100}
    return texts(api.get(f"{CREATE}/{response['id']}/input_items", params=query).json()["data"])


class TestAnswer:
    def test_the_model_is_given_the_messages_and_then_the_input(
        self, api: httpx2.Client, greeting: str
    ) -> None:
        made = ask(api, prompt={"id": greeting, "variables": FILLED}).json()
        assert text(made) == SEEN
        assert made["prompt"] == {"id": greeting, "variables": FILLED, "version": "1"}
        assert made["instructions"] == RENDERED
        assert made["model"] == "offline"
        assert api.get(f"{CREATE}/{made['id']}").json() == made

    def test_what_was_rendered_is_no_input(self, api: httpx2.Client, greeting: str) -> None:
        made = ask(api, prompt={"id": greeting, "variables": FILLED}).json()
        assert given_to(api, made) == ["hi"]

    def test_every_event_says_the_same(self, api: httpx2.Client, greeting: str) -> None:
        events = frames(stream(api, prompt={"id": greeting, "variables": FILLED}))
        for each in (events[0], events[-1]):
            assert each.data["response"]["instructions"] == RENDERED
            assert each.data["response"]["prompt"]["version"] == "1"
        assert text(events[-1].data["response"]) == SEEN

    def test_input_may_be_empty(self, api: httpx2.Client, greeting: str) -> None:
        made = ask(api, prompt={"id": greeting, "variables": FILLED}, input=[]).json()
        assert text(made).startswith("I was given 3 items;")

    def test_its_tokens_are_counted(self, api: httpx2.Client) -> None:
        long = keep(api, {"model": "offline", "messages": [user("x" * 4000)]})["id"]
        made = ask(api, prompt={"id": long}).json()
        assert made["usage"]["input_tokens"] > 1000

    def test_an_image_fills_a_place(self, api: httpx2.Client) -> None:
        name = keep(api, {"model": "offline", "messages": [user("Look: {{it}}")]})["id"]
        image = {"type": "input_image", "image_url": "https://example.com/a.png"}
        made = ask(api, prompt={"id": name, "variables": {"it": image}}).json()
        [said] = made["instructions"]
        assert said["content"][1] == {**image, "detail": "auto"}
        assert made["prompt"]["variables"] == {"it": image}


class TestPrecedence:
    def test_what_the_request_says_counts(self, api: httpx2.Client) -> None:
        template = {"model": "nobody", "temperature": 0.2, "top_p": 0.3, "text": {"verbosity": "low"}}
        name = keep(api, template)["id"]
        made = create(api, prompt={"id": name}, temperature=0.9, top_p=None)
        assert (made["temperature"], made["top_p"], made["text"]["verbosity"]) == (0.9, 0.3, "low")
        assert made["instructions"] is None

    def test_instructions_displace_the_templates_alone(self, api: httpx2.Client, greeting: str) -> None:
        made = create(api, prompt={"id": greeting, "variables": FILLED}, instructions="Be {{brief}}.")
        assert made["instructions"] == [message("developer", "Be {{brief}}."), *RENDERED[1:]]
        bare = keep(api, {"instructions": "Speak {{language}}."})["id"]
        made = create(api, prompt={"id": bare}, instructions="Be brief.")
        assert made["instructions"] == "Be brief."

    def test_tools_are_obeyed(self, api: httpx2.Client) -> None:
        tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
        name = keep(api, {"model": "offline", "tools": [tool], "tool_choice": "required"})["id"]
        made = ask(api, prompt={"id": name}).json()
        assert [item["type"] for item in made["output"]] == ["function_call"]
        assert made["tools"][0]["name"] == "f"

    @pytest.mark.parametrize("sent", [{}, {"model": None}])
    def test_somebody_has_to_name_the_model(self, api: httpx2.Client, sent: dict[str, Any]) -> None:
        name = keep(api, {})["id"]
        answer = ask(api, prompt={"id": name}, **sent)
        assert told(answer).code == "missing_required_parameter"
        assert told(answer).param == "model"


class TestVersions:
    def test_the_default_counts_unless_one_is_asked_for(self, api: httpx2.Client) -> None:
        name = keep(api, {"instructions": "one"})["id"]
        extend(api, name, {"instructions": "two"})

        def said(**more: Any) -> tuple[str, str]:
            made = create(api, prompt={"id": name, **more})
            return made["prompt"]["version"], made["instructions"][0]["content"][0]["text"]

        assert said() == said(version=None) == ("2", "two")
        assert said(version="1") == ("1", "one")
        api.post(f"{PROMPTS}/{name}", json={"default_version": "1"})
        assert said() == ("1", "one")
        assert said(version="2") == ("2", "two")

    def test_what_was_made_says_by_which(self, api: httpx2.Client) -> None:
        name = keep(api, {"instructions": "one"})["id"]
        made = create(api, prompt={"id": name})
        api.delete(f"{PROMPTS}/{name}")
        assert api.get(f"{CREATE}/{made['id']}").json() == made


class TestCarriedOver:
    def test_a_child_has_nothing_of_it(self, api: httpx2.Client, greeting: str) -> None:
        first = ask(api, prompt={"id": greeting, "variables": FILLED}).json()
        second = create(api, "more", previous_response_id=first["id"])
        assert text(second).startswith('I was given 3 items; the first user message was "hi"')
        assert second["instructions"] is None
        assert "prompt" not in second
        assert given_to(api, second) == ["hi", text(first), "more"]

    def test_a_child_may_have_its_own(self, api: httpx2.Client, greeting: str) -> None:
        first = create(api, "one")
        made = create(
            api, "two", previous_response_id=first["id"], prompt={"id": greeting, "variables": FILLED}
        )
        assert text(made).startswith('I was given 6 items; the first user message was "I am Kari."')
        assert given_to(api, made) == ["one", text(first), "two"]

    def test_a_conversation_keeps_none_of_it(self, api: httpx2.Client, greeting: str) -> None:
        name = begin(api)
        made = turn(api, name, "hi", prompt={"id": greeting, "variables": FILLED})
        assert text(made) == SEEN
        assert texts(items_of(api, name)) == ["hi", text(made)]


class TestRefused:
    @pytest.mark.parametrize("name", [NO_PROMPT, "pmpt_x", "nonsense", "", "pmpt_\0", "pmpt_\ufffd"])
    def test_an_unknown_prompt(self, api: httpx2.Client, name: str) -> None:
        answer = ask(api, model="offline", prompt={"id": name})
        expected = f"Prompt with id '{name}' not found."
        assert told(answer) == Refusal(404, None, None, expected, "invalid_request_error")

    def test_a_long_name_is_not_repeated(self, api: httpx2.Client) -> None:
        answer = ask(api, model="offline", prompt={"id": "x" * 100_000})
        assert told(answer).status == 404
        assert len(answer.content) < 400

    @pytest.mark.parametrize("version", ["2", "0", "x", "", "\0"])
    def test_an_unknown_version(self, api: httpx2.Client, greeting: str, version: str) -> None:
        answer = ask(api, prompt={"id": greeting, "version": version})
        assert (told(answer).status, told(answer).code, told(answer).param) == (404, None, None)
        assert told(answer).message == f"Prompt with id '{greeting}' and version '{version}' not found."

    @pytest.mark.parametrize(
        ("variables", "code", "param"),
        [
            (None, "missing_required_parameter", "prompt.variables.language"),
            ({"language": "x"}, "missing_required_parameter", "prompt.variables.name"),
            ({**FILLED, "city": "x"}, "unknown_parameter", "prompt.variables.city"),
            (
                {**FILLED, "name": {"type": "input_image", "image_url": "https://e.com/a.png"}},
                "invalid_value",
                "prompt.variables.name",
            ),
            ({**FILLED, "name": 3}, "invalid_type", "prompt.variables.name"),
        ],
    )
    def test_variables_that_do_not_fit(
        self, api: httpx2.Client, greeting: str, variables: Any, code: str, param: str
    ) -> None:
        answer = ask(api, prompt={"id": greeting, "variables": variables})
        assert (told(answer).status, told(answer).code, told(answer).param) == (400, code, param)

    def test_what_was_rendered_cannot_be_sent(self, api: httpx2.Client, greeting: str) -> None:
        answer = ask(api, prompt={"id": greeting, "variables": FILLED, "messages": []})
        assert (told(answer).code, told(answer).param) == ("unknown_parameter", "prompt.messages")

    def test_two_histories_are_told_first(self, api: httpx2.Client) -> None:
        answer = ask(
            api, model="offline", prompt={"id": "x"}, conversation="conv_1", previous_response_id="resp_1"
        )
        assert told(answer).code == "mutually_exclusive_parameters"

    def test_input_is_required_all_the_same(self, api: httpx2.Client, greeting: str) -> None:
        answer = api.post(CREATE, json={"prompt": {"id": greeting, "variables": FILLED}})
        assert (told(answer).code, told(answer).param) == ("missing_required_parameter", "input")

    def test_a_refusal_is_no_stream(self, api: httpx2.Client, greeting: str) -> None:
        answer = ask(api, prompt={"id": greeting}, stream=True)
        assert told(answer).status == 400

    def test_a_conversation_is_free_after_it(self, api: httpx2.Client) -> None:
        name = begin(api)
        bad = keep(api, {"model": "offline", "tools": [{"type": "web_search"}]})["id"]
        assert told(ask(api, prompt={"id": bad}, conversation=name)).param == "tools[0].type"
        assert turn(api, name, "hi")

    def test_an_idempotency_key_stands_for_the_request(self, api: httpx2.Client) -> None:
        name = keep(api, GREETING)["id"]
        body = {"input": "hi", "prompt": {"id": name, "variables": FILLED}}
        headers = {"idempotency-key": ids.new_uuid().hex}
        first = api.post(CREATE, json=body, headers=headers)
        extend(api, name, {**GREETING, "temperature": 0.5})
        assert api.post(CREATE, json=body, headers=headers).json() == first.json()


async def test_a_request_without_a_prompt_asks_nobody() -> None:
    """Here is nobody to be asked."""
    nobody: Any = None
    for params in ({"model": "m", "input": "x"}, {"model": "m", "input": "x", "prompt": None}):
        assert await prompted(params, nobody, nobody) is params
