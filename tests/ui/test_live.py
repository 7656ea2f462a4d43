"""A running response as the page is told of it: what is shown, once, from wherever the browser was."""

from typing import Any

import httpx2
import orjson
import pytest

from tests.api.asking import CREATE, MISSING, create
from tests.keys import client_with
from tests.ui.conftest import Site
from tests.ui.visiting import HOME, shown
from tests.workers.processes import LiveWorker


def told(answer: httpx2.Response) -> list[tuple[str, dict[str, Any]]]:
    """The messages as a browser takes them: their numbers, and what they say."""
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    messages = list[tuple[str, dict[str, Any]]]()
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            messages.append((fields.get("id", fields.get("event", "")), orjson.loads(fields["data"])))
    return messages


@pytest.fixture(scope="module")
def ended(site: Site, worker: LiveWorker) -> str:
    """A stream that has ended: its response."""
    body = {
        "model": "offline",
        "input": "::reason Well.\n::words 5 0\nGo",
        "background": True,
        "stream": True,
    }
    with client_with(site.server, site.writer) as api:
        answer = api.post(CREATE, json=body)
    [created] = [line for line in answer.text.splitlines() if '"type":"response.created"' in line]
    return orjson.loads(created.removeprefix("data: "))["response"]["id"]


def test_the_whole_of_it(browser: httpx2.Client, ended: str) -> None:
    messages = told(browser.get(f"{HOME}/{ended}/events"))
    assert messages[-1] == ("end", {})
    says = [message for _, message in messages[:-1]]
    assert [message["status"] for message in says if message["do"] == "status"] == ["queued", "in_progress"]
    assert [(message["title"], message["kind"]) for message in says if message["do"] == "open"] == [
        ("Reasoning", "reasoning"),
        ("Assistant", "message"),
    ]
    spoken = {"thought": "", "prose": ""}
    for message in says:
        if message["do"] == "say":
            spoken[message["kind"]] += message["text"]
    assert spoken == {"thought": "Well.", "prose": "one two three four five"}


@pytest.mark.parametrize("by_header", [True, False])
def test_who_was_cut_off_is_told_the_rest(browser: httpx2.Client, ended: str, *, by_header: bool) -> None:
    path = f"{HOME}/{ended}/events"
    messages = told(browser.get(path))
    for place, (number, _) in enumerate(messages[:-1], 1):
        if by_header:
            rest = browser.get(path, headers={"last-event-id": number})
        else:
            rest = browser.get(path, params={"starting_after": number})
        assert told(rest) == messages[place:]


@pytest.mark.parametrize("number", ["x", "-5", "9" * 30, "1.5"])
def test_an_invented_place_is_no_error(browser: httpx2.Client, ended: str, number: str) -> None:
    answer = browser.get(f"{HOME}/{ended}/events", headers={"last-event-id": number})
    assert told(answer)[-1] == ("end", {})


def test_what_has_no_events_is_refused(browser: httpx2.Client, api: httpx2.Client) -> None:
    made = create(api)["id"]
    assert "was not created with stream=true" in shown(browser.get(f"{HOME}/{made}/events"), 400)
    shown(browser.get(f"{HOME}/{MISSING}/events"), 404)
