"""The short way answers as the long one would: asked for the same with a word more, FastAPI answers."""

import httpx2
import pytest

from tests.api.asking import CREATE, MISSING, create

UNKNOWN = "resp_" + "0" * 40
# What both ways answer alike, but for what differs between any two answers.
DIFFERS = {"date", "x-request-id", "openai-processing-ms"}


def told(answer: httpx2.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    headers = [(name, value) for name, value in answer.headers.multi_items() if name not in DIFFERS]
    assert answer.headers.keys() >= DIFFERS - {"date"}
    return answer.status_code, answer.content, headers


@pytest.mark.parametrize(
    "name", ["made", MISSING, UNKNOWN, "resp_", "resp_%20", "resp_é", "resp_" + "x" * 900]
)
def test_one_is_read_alike(api: httpx2.Client, name: str) -> None:
    path = f"{CREATE}/{create(api)['id'] if name == 'made' else name}"
    assert told(api.get(path)) == told(api.get(path, params={"stream": "false"}))


def test_a_page_is_read_alike(api: httpx2.Client) -> None:
    made = [create(api, str(number))["id"] for number in range(3)]
    for query in (
        "",
        "limit=2",
        "order=asc",
        f"after={made[1]}",
        f"limit=1&order=desc&after={made[2]}",
        "limit=100",
    ):
        short, long = (api.get(f"{CREATE}?{query}{more}") for more in ("", "&created_after=0"))
        assert short.status_code == 200
        assert short.json() == long.json()
    page = {"limit": "2", "after": made[2]}
    assert [each["id"] for each in api.get(CREATE, params=page).json()["data"]] == [made[1], made[0]]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=101", "limit=", "limit=x", "limit=-1", "limit=%C2%B2", "limit=1&limit=2", "limit=1.0",
        "order=up", "order=", "after=", "after=conv_x", "after=resp_x", f"after={UNKNOWN}", "colour=red",
        "limit=1&colour=red", "%FF=1", "after=%00", "&", "limit",
    ],
)  # fmt: skip
def test_an_odd_page_is_answered_by_the_words_of_the_long_way(api: httpx2.Client, query: str) -> None:
    """Whichever way it goes, it is no error of ours, and a refusal names what is wrong."""
    answer = api.get(f"{CREATE}?{query}")
    assert answer.status_code in {200, 400}
    if answer.status_code == 400:
        assert answer.json()["error"]["type"] == "invalid_request_error"
        # The order of parameters decides who reads them, and must not decide what is answered.
        assert told(api.get(f"{CREATE}?{query}&model=offline"))[:2] == told(answer)[:2]


@pytest.mark.parametrize("dialect", ["openrouter", "openai"])
def test_a_dialect_is_spoken_alike(api: httpx2.Client, dialect: str) -> None:
    headers = {"Holdfast-Dialect": dialect}
    made = api.post(CREATE, json={"model": "offline", "input": "hi"}, headers=headers).json()
    assert ("output_text" in made) == (dialect == "openrouter")
    path = f"{CREATE}/{made['id']}"
    for short, more in ((path, {"stream": "false"}), (CREATE, {"created_after": "0"})):
        long = api.get(short, params=more, headers=headers)
        assert told(api.get(short, headers=headers)) == told(long)
    assert api.get(path, headers=headers).json() == made
    [listed] = api.get(CREATE, params={"limit": 1}, headers=headers).json()["data"]
    assert ("cost" in listed["usage"]) == (dialect == "openrouter")


@pytest.mark.parametrize("dialect", ["openrouter", "openai", "x"])
def test_refusals_are_told_alike_in_a_dialect(api: httpx2.Client, dialect: str) -> None:
    headers = {"Holdfast-Dialect": dialect}
    path = f"{CREATE}/{MISSING}"
    assert told(api.get(path, headers=headers)) == told(
        api.get(path, params={"stream": "false"}, headers=headers)
    )
    for answer in (
        api.get(path, headers=headers),
        api.post(CREATE, json={"model": "nobody", "input": "hi"}, headers=headers),
        api.get(CREATE, params={"after": UNKNOWN}, headers=headers),
    ):
        assert answer.is_client_error
        assert (answer.json()["error"]["code"] == answer.status_code) == (dialect == "openrouter")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "HEAD"])
def test_other_methods_are_not_taken(api: httpx2.Client, method: str) -> None:
    answer = api.request(method, CREATE)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"


def test_a_path_beside_it_is_not_taken(api: httpx2.Client) -> None:
    assert api.post(f"{CREATE}/", json={}).status_code == 404
    assert api.get(f"{CREATE}/resp_1/nothing").status_code == 404
    assert api.post("/v1/Responses", json={}).status_code == 404
