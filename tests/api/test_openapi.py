"""What the server says about itself is true."""

from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema
import pytest
import schemathesis.openapi
from fastapi.routing import APIRoute, iter_route_contexts

from app.main import create_app
from app.settings import Settings
from tests.api import conversing
from tests.api.asking import CREATE, MISSING, create
from tests.api.conversing import CONVERSATIONS

DOCUMENT: dict[str, Any] = create_app(Settings()).openapi()
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for child in value:
            yield from references(child)


def resolve(reference: str) -> Any:
    value: Any = DOCUMENT
    for key in reference.removeprefix("#/").split("/"):
        value = value[key.replace("~1", "/").replace("~0", "~")]
    return value


def check(value: Any, name: str) -> None:
    """A value must fit a schema of the document."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    jsonschema.validate(value, schema, jsonschema.Draft202012Validator)


def test_the_server_gives_the_document(api: httpx2.Client) -> None:
    assert api.get("/openapi.json").json() == DOCUMENT


def test_the_pages_for_people_are_there(api: httpx2.Client) -> None:
    for path in ("/docs", "/redoc"):
        answer = api.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert found
    assert all(resolve(reference) for reference in found)


def test_no_schema_is_left_over() -> None:
    used = {reference.rpartition("/")[2] for reference in references(DOCUMENT)}
    assert set(DOCUMENT["components"]["schemas"]) == used


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


def test_every_route_is_in_it() -> None:
    routes = {
        (str(route.path).replace(":path", ""), method.lower())
        for route in iter_route_contexts(create_app(Settings()).routes)
        if isinstance(route.original_route, APIRoute)
        for method in route.methods or ()
    }
    assert set(OPERATIONS) == routes


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_says_what_it_does_and_answers(path: str, method: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    assert operation["summary"]
    assert operation["description"].strip().endswith(".")
    assert operation["tags"]
    answers = operation["responses"]
    assert "200" in answers
    assert "422" not in answers
    if path.startswith(("/v1/responses", CONVERSATIONS)):
        assert {"400", "503"} <= answers.keys()
        assert all(kind["schema"] for kind in answers["200"]["content"].values())
        errors = [answer for status, answer in answers.items() if status != "200"]
        assert all(
            answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
            for answer in errors
        )


def test_a_tool_that_reads_such_documents_reads_it() -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    assert len([schema[path][method] for path, method in OPERATIONS]) == schema.statistic.operations.total


@pytest.mark.parametrize("body", DOCUMENT["components"]["schemas"]["CreateResponse"]["examples"])
def test_examples_work(api: httpx2.Client, body: dict[str, Any]) -> None:
    check(body, "CreateResponse")
    assert api.post(CREATE, json=body).status_code == 200


def test_answers_fit_what_is_documented(api: httpx2.Client) -> None:
    response = create(api, "::reason r\nhi", metadata={"a": "b"})
    path = f"{CREATE}/{response['id']}"
    check(response, "Response")
    check(api.get(path).json(), "Response")
    assert set(response) <= set(DOCUMENT["components"]["schemas"]["Response"]["properties"])
    # By its model: other tests put rows into the table that no create has made.
    for params in ({"limit": "1"}, {"model": response["model"]}):
        for row in api.get(CREATE, params=params).json()["data"]:
            check(row, "ListedResponse")
    for item in api.get(f"{path}/input_items").json()["data"]:
        check(item, "Item")
    check(api.get(f"{CREATE}/{MISSING}").json(), "Error")
    check(DOCUMENT["components"]["schemas"]["Error"]["example"], "Error")


def test_answers_about_conversations_fit_too(api: httpx2.Client) -> None:
    name = conversing.begin(api, "hi", metadata={"a": "b"})
    path = f"{CONVERSATIONS}/{name}"
    check(api.get(path).json(), "Conversation")
    assert set(api.get(path).json()) == set(DOCUMENT["components"]["schemas"]["Conversation"]["properties"])
    for row in api.get(CONVERSATIONS).json()["data"]:
        check(row, "Conversation")
    for item in conversing.items_of(api, name):
        check(item, "Item")
        check(api.delete(f"{path}/items/{item['id']}").json(), "Conversation")
