"""Whatever a client sends: never a 5xx, always the envelope, and a 200 can be read again.

The examples are the same in every run. For a longer hunt, with new ones each time:

    HOLDFAST_TEST_FUZZ_EXAMPLES=20000 pytest tests/api/test_fuzz.py
"""

from collections.abc import Generator
from typing import Any

import httpx2
import orjson
import pytest
import schemathesis.openapi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.schemas.prompt import PromptTemplate
from app.domain.gates import INCLUDES
from app.main import create_app
from app.settings import Settings, environment
from tests.api import bodies
from tests.api.hostile import Request, Wire, requests
from tests.live import LiveServer
from tests.prompting import keep, user

WANTED = environment().get("HOLDFAST_TEST_FUZZ_EXAMPLES")


def fuzzed(examples: int) -> settings:
    return settings(
        max_examples=int(WANTED or examples),
        derandomize=WANTED is None,
        database=None,
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],
    )


DOCUMENTED = schemathesis.openapi.from_dict(create_app(Settings()).openapi())["/v1/responses"]["POST"]


@fuzzed(50)
@given(case=DOCUMENTED.as_strategy())
def test_bodies_that_the_documentation_allows(api: httpx2.Client, case: Any) -> None:
    check(api, bodies.encode(case.body | {"model": "offline"}))


@fuzzed(150)
@given(body=bodies.valid())
def test_valid_bodies(api: httpx2.Client, parent: bytes, body: dict[str, Any]) -> None:
    check(api, bodies.encode(body).replace(bodies.PARENT.encode(), parent))


@fuzzed(100)
@given(body=bodies.valid() | bodies.mutated())
def test_bodies_of_clients_of_another_dialect(api: httpx2.Client, body: dict[str, Any]) -> None:
    headers = {"content-type": "application/json", "Holdfast-Dialect": "openrouter"}
    answer = api.post("/v1/responses", content=bodies.encode(body), headers=headers)
    assert answer.status_code in {200, 400, 404}, answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["code"] == answer.status_code
        return
    said = outcome(answer)
    assert isinstance(said["output_text"], str)
    if said["store"]:
        assert (
            api.get(
                f"/v1/responses/{said['id']}", params={"include": sorted(INCLUDES)}, headers=headers
            ).json()
            == said
        )


@fuzzed(150)
@given(body=bodies.mutated(), is_ascii=st.booleans())
def test_bodies_with_something_wrong_in_them(
    api: httpx2.Client, body: dict[str, Any], *, is_ascii: bool
) -> None:
    check(api, bodies.encode(body, is_ascii=is_ascii))


@fuzzed(150)
@given(body=bodies.mangled() | st.binary(max_size=40) | bodies.ANYTHING.map(bodies.encode))
def test_bytes_that_are_hardly_a_body(api: httpx2.Client, body: bytes) -> None:
    check(api, body)


@fuzzed(150)
@given(
    path=st.sampled_from(
        [
            "/v1/responses",
            "/v1/responses/{id}",
            "/v1/responses/{id}/input_items",
            "/v1/models/{id}",
            "/v1/conversations",
            "/v1/conversations/{id}",
            "/v1/conversations/{id}/items",
            "/v1/conversations/{conversation}/items",
            "/v1/conversations/{conversation}/items/{id}",
            "/v1/prompts",
            "/v1/prompts/{id}",
            "/v1/prompts/{id}/versions",
            "/v1/prompts/{prompt}/versions",
        ]
    ),
    name=bodies.TEXT | bodies.IDS,
    query=st.dictionaries(
        st.sampled_from(
            [
                "limit",
                "order",
                "after",
                "model",
                "include",
                "include[]",
                "stream",
                "metadata[a]",
                "metadata[\0]",
                "version",
            ]
        ),
        bodies.TEXT | bodies.IDS,
    ),
)
def test_paths_and_queries(
    api: httpx2.Client, conversation: str, prompt: str, path: str, name: str, query: dict[str, str]
) -> None:
    path = path.replace("{prompt}", prompt)
    pairs = "&".join(f"{quote(key)}={quote(value)}" for key, value in query.items())
    path = path.replace("{id}", quote(name)).replace("{conversation}", conversation)
    check_answer(api.get(f"{path}?{pairs}"))


@fuzzed(100)
@given(
    path=st.sampled_from(["", "/{id}", "/{id}/items", "/{id}/fork"]),
    body=bodies.mutated() | bodies.valid(),
    more=st.dictionaries(
        st.sampled_from(["metadata", "item_id"]), bodies.ANYTHING | st.dictionaries(bodies.TEXT, bodies.TEXT)
    ),
    is_ascii=st.booleans(),
)
def test_bodies_of_conversations(
    api: httpx2.Client,
    conversation: str,
    path: str,
    body: dict[str, Any],
    more: dict[str, Any],
    *,
    is_ascii: bool,
) -> None:
    """The items of creates, with ids that earlier ones brought, and odd metadata beside them."""
    takes = {"": {"items", "metadata"}, "/{id}": {"metadata"}, "/{id}/items": {"items"}}
    sent = {"items": body.get("input"), **more}
    sent = {key: value for key, value in sent.items() if key in takes.get(path, {"metadata", "item_id"})}
    answer = api.post(
        f"/v1/conversations{path.replace('{id}', conversation)}",
        content=bodies.encode(sent, is_ascii=is_ascii),
    )
    check_answer(answer)
    if answer.status_code == 200 and path != "/{id}/items":
        name = answer.json()["id"]
        assert api.get(f"/v1/conversations/{name}").json() == answer.json()
        assert api.get(f"/v1/conversations/{name}/items").status_code == 200


@fuzzed(100)
@given(
    path=st.sampled_from(["", "/{id}", "/{id}/versions"]),
    body=bodies.mutated() | bodies.valid(),
    more=st.dictionaries(
        st.sampled_from(["id", "name", "metadata", "default_version", "template"]),
        bodies.ANYTHING | st.dictionaries(bodies.TEXT, bodies.TEXT) | bodies.TEXT,
    ),
    is_ascii=st.booleans(),
)
def test_bodies_of_prompts(
    api: httpx2.Client, prompt: str, path: str, body: dict[str, Any], more: dict[str, Any], *, is_ascii: bool
) -> None:
    """What creates say as templates, with odd things beside them."""
    names = PromptTemplate.__annotations__
    template = {key: value for key, value in body.items() if key in names}
    if isinstance(body.get("input"), list):
        template["messages"] = body["input"]
    sent = {"template": template, **more}
    sent = {key: sent[key] for key in sent if path != "/{id}" or key != "template"}
    answer = api.post(
        f"/v1/prompts{path.replace('{id}', prompt)}", content=bodies.encode(sent, is_ascii=is_ascii)
    )
    check_answer(answer)
    if answer.status_code == 200 and not path:
        name = answer.json()["id"]
        assert api.get(f"/v1/prompts/{name}").json() == answer.json()
        check(api, bodies.encode({"model": "offline", "input": "hi", "prompt": {"id": name}}))


@fuzzed(150)
@given(
    variables=bodies.ANYTHING
    | st.dictionaries(st.sampled_from(["a", "b"]) | bodies.TEXT, bodies.TEXT | bodies.ANYTHING),
    version=st.none() | bodies.TEXT,
)
def test_variables_of_prompts(api: httpx2.Client, prompt: str, variables: Any, version: str | None) -> None:
    named = {"id": prompt, "variables": variables} | ({"version": version} if version else {})
    check(api, bodies.encode({"model": "offline", "input": "hi", "prompt": named}))


@fuzzed(200)
@given(request=requests())
def test_any_request_to_any_route(wire: Wire, known: dict[str, str], request: Request) -> None:
    """Odd paths, queries, headers and bodies, as bytes that no client library would send."""
    status, body = wire.ask(request, known)
    assert 200 <= status < 500, body
    if status >= 400 and body:
        error = orjson.loads(body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def wire(server: LiveServer) -> Generator[Wire]:
    wire = Wire(server.port)
    yield wire
    wire.close()


@pytest.fixture(scope="module")
def known(api: httpx2.Client, parent: bytes, conversation: str) -> dict[str, str]:
    items = api.get(f"/v1/conversations/{conversation}/items").json()["data"]
    return {"{response}": parent.decode(), "{conversation}": conversation, "{item}": items[0]["id"]}


def quote(name: str) -> str:
    """Every byte escaped, so that nothing of it is taken for the syntax of a URL."""
    return "".join(f"%{byte:02x}" for byte in name.encode(errors="surrogatepass"))


@pytest.fixture(scope="module")
def parent(api: httpx2.Client) -> bytes:
    return api.post("/v1/responses", json={"model": "offline", "input": "hi"}).json()["id"].encode()


@pytest.fixture(scope="module")
def prompt(api: httpx2.Client) -> str:
    return keep(api, {"messages": [user("{{a}} and {{b}}")]})["id"]


@pytest.fixture(scope="module")
def conversation(api: httpx2.Client) -> str:
    return api.post("/v1/conversations", json={"items": [{"role": "user", "content": "hi"}]}).json()["id"]


def check(api: httpx2.Client, body: bytes) -> None:
    answer = api.post("/v1/responses", content=body, headers={"content-type": "application/json"})
    check_answer(answer)
    if answer.status_code == 200:
        check_kept(api, answer)


def check_answer(answer: httpx2.Response) -> None:
    """Fine, or refused in the envelope."""
    assert answer.status_code in {200, 400, 404}, answer.text
    assert answer.headers["x-request-id"].startswith("req_")
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["message"]


def check_kept(api: httpx2.Client, answer: httpx2.Response) -> None:
    """The response and what it was given can be read, just as they were answered."""
    said = outcome(answer)
    read = api.get(f"/v1/responses/{said['id']}", params={"include": sorted(INCLUDES)})
    if said["store"] is False:
        assert read.status_code == 404
        return
    assert orjson.loads(read.content) == said
    items = api.get(f"/v1/responses/{said['id']}/input_items")
    assert items.status_code == 200, items.text


def outcome(answer: httpx2.Response) -> dict[str, Any]:
    """The response object, out of the last event of a stream."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return orjson.loads(answer.content)
    last = answer.content.removesuffix(b"data: [DONE]\n\n").rstrip(b"\n").rpartition(b"data: ")[2]
    return orjson.loads(last)["response"]
