"""What the pages show, and what every answer tells the browser."""

import re

import httpx2
import pytest

from app.domain.audit import Action
from app.domain.tenancy import Scope
from tests.api.asking import CREATE, MISSING, create
from tests.api.conversing import add, begin
from tests.background import execute
from tests.keys import client_with, new_key
from tests.ui.conftest import Site
from tests.ui.visiting import HOME, LOGIN, OURS, UI, shown, visiting
from tests.waiting import until

ONE = f"{HOME}/{{}}"


def links(page: str) -> list[str]:
    return [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', page)]


class TestHeaders:
    @pytest.mark.parametrize(
        ("path", "status"),
        [
            (HOME, 200), (f"{UI}/conversations", 200), (LOGIN, 200), (UI, 303), (f"{UI}/nowhere", 404), (f"{HOME}?status=x", 400),
            (f"{UI}/static/page.css", 200), (f"{UI}/static/nothing", 404), (f"{HOME}/{MISSING}", 404),
        ],
    )  # fmt: skip
    def test_every_answer_is_locked_in(self, browser: httpx2.Client, path: str, status: int) -> None:
        answer = browser.get(path)
        assert answer.status_code == status
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "form-action": "'self'",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
        }
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-request-id"]

    def test_pages_are_not_kept(self, browser: httpx2.Client) -> None:
        for path in (HOME, UI, LOGIN, f"{UI}/nowhere"):
            assert browser.get(path).headers["cache-control"] == "no-store"

    def test_files_are_kept_by_their_content(self, browser: httpx2.Client) -> None:
        files = [link for link in links(shown(browser.get(HOME))) if "/static/" in link]
        files += re.findall(r'<script src="([^"]+)"', shown(browser.get(HOME)))
        assert len(files) == 5
        for each in files:
            answer = browser.get(each)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
            assert browser.get(each.partition("?")[0]).headers["cache-control"] == "no-cache"
            assert browser.get(f"{each}0").headers["cache-control"] == "no-cache"

    def test_the_licence_of_what_is_not_ours_is_beside_it(self, browser: httpx2.Client) -> None:
        assert "Zero-Clause BSD" in browser.get(f"{UI}/static/htmx.LICENSE.txt").text

    @pytest.mark.parametrize("name", ["..%2f__init__.py", "%2e%2e/sessions.py", "x", "page.css%00", "a/b"])
    def test_no_other_file_is_served(self, browser: httpx2.Client, name: str) -> None:
        assert browser.get(f"{UI}/static/{name}").status_code == 404


def checked(page: str) -> str:
    """A page in which nothing stands that the policy would refuse, and nothing from elsewhere."""
    assert not re.findall(r"<script(?! src=\"/ui/static/)", page)
    assert not re.findall(r"<style|<base|<iframe|<object|<embed", page)
    assert not re.findall(r"<[^>]*\s(?:style|on\w+|srcdoc|formaction)=", page)
    for source in re.findall(r'\ssrc="([^"]*)"', page):
        assert source.startswith(("/ui/static/", "data:image/")), source
    for link in re.findall(r"\shref=\"([^\"]*)\"", page):
        assert link.startswith(("/ui", "#", "https://", "http://", "mailto:")), link
    return page


class TestList:
    async def test_an_empty_one_says_how_to_begin(self, site: Site) -> None:
        with visiting(site.server, await new_key(site.database_url, "nobody yet")) as browser:
            page = shown(browser.get(HOME))
            assert "No responses yet" in page
            assert f"http://127.0.0.1:{site.server.port}/v1/responses" in page
            assert "HOLDFAST_API_KEY" in page
            assert "&#34;offline&#34;" in page
            page = shown(browser.get(f"{UI}/conversations"))
            assert "No conversations yet" in page
            assert f"http://127.0.0.1:{site.server.port}/v1" in page
            page = shown(browser.get(HOME, headers={"x-forwarded-proto": "https", "host": "a.example"}))
            assert "https://a.example/v1/responses" in page

    def test_a_row_says_what_was_asked(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        made = create(api, "What <b>is</b> a turn?", user="ada")
        page = checked(shown(browser.get(HOME)))
        assert "What &lt;b&gt;is&lt;/b&gt; a turn?" in page
        assert f'href="/ui/responses/{made["id"]}"' in page
        assert '<span class="chip completed"' in page

    def test_filters_stand_in_the_address(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        atlas = create(api, "find the astrolabe", metadata={"project": "atlas"}, user="grace")["id"]
        other = create(api, "find the sextant", metadata={"project": "other"})["id"]
        asked = {
            "q": "astrolabe",
            "metadata[project]": "atlas",
            "status": "completed",
            "user": "grace",
            "model": "",
        }
        page = checked(shown(browser.get(HOME, params=asked)))
        assert atlas in page
        assert other not in page
        assert 'value="astrolabe"' in page
        without = [link for link in links(page) if link.startswith(f"{HOME}?") and "seen=" not in link]
        assert len(without) == 4
        assert all(len(link.split("&")) == 3 for link in without)
        page = shown(browser.get(HOME, params={"metadata[project]": "nowhere"}))
        assert "No response fits" in page
        assert atlas not in page

    def test_a_field_that_was_left_empty_is_not_asked_for(
        self, browser: httpx2.Client, api: httpx2.Client
    ) -> None:
        made = create(api)["id"]
        every = (
            "q=&status=&model=&tool=&user=&created_after=&background=&has_attempts_over=&conversation=&root="
        )
        assert made in shown(browser.get(f"{HOME}?{every}"))

    @pytest.mark.parametrize(
        "query",
        [
            "after=x",
            "after=resp_1",
            "status=odd",
            "created_after=soon",
            "root=x",
            "has_attempts_over=-1",
            "background=2",
        ],
    )
    def test_what_cannot_be_asked_is_refused_in_words(self, browser: httpx2.Client, query: str) -> None:
        assert "Invalid" in shown(browser.get(f"{HOME}?{query}"), 400)

    async def test_pages_follow_each_other(self, site: Site) -> None:
        key = await new_key(site.database_url, "many")
        with client_with(site.server, key) as api, visiting(site.server, key) as browser:
            made = [create(api, str(number))["id"] for number in range(53)]
            seen = list[str]()
            page = shown(browser.get(HOME, params={"model": "offline"}))
            while True:
                seen += re.findall(r'id="r-(resp_\w+)"', page)
                older = re.findall(r'href="([^"]+)" rel="next"', page)
                if not older:
                    break
                assert "model=offline" in older[0]
                page = shown(browser.get(older[0].replace("&amp;", "&")))
            assert seen == made[::-1]
            assert "Newest" in page

    def test_the_first_page_is_fetched_anew_when_it_has_changed(
        self, browser: httpx2.Client, api: httpx2.Client
    ) -> None:
        create(api)
        page = shown(browser.get(HOME, params={"model": "offline"}))
        [again] = re.findall(r'hx-get="([^"]+)"', page)
        again = again.replace("&amp;", "&")
        assert browser.get(again).status_code == 204
        made = create(api)["id"]
        rows = shown(browser.get(again))
        assert made in rows
        assert rows.lstrip().startswith('<div id="list"')
        older = shown(browser.get(HOME, params={"after": made}))
        assert "hx-get" not in older


HOSTILE = [
    {"role": "user", "content": [
        {"type": "input_text", "text": "<script>alert(1)</script><img src=x onerror=alert(1)> [x](javascript:alert(1))"},
        {"type": "input_image", "image_url": "https://evil.example/pixel.png"},
        {"type": "input_file", "file_url": "https://evil.example/file.pdf"},
        {"type": "input_file", "filename": '"><script>alert(1)</script>', "file_data": "data:,x"},
    ]},
    {"type": "function_call", "call_id": '"><script>', "name": "f", "arguments": "</pre><script>alert(1)</script>"},
    {"type": "function_call_output", "call_id": '"><script>', "output": "</pre><style>*{}</style>"},
]  # fmt: skip


class TestOne:
    def test_what_was_said(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        made = create(api, "Hi **you**", metadata={"a": "b"}, instructions="Be kind.", temperature=0.5)
        page = checked(shown(browser.get(ONE.format(made["id"]))))
        for words in (
            "Hi <strong>you</strong>",
            "I was given 1 item",
            "Be kind.",
            "temperature",
            "0.5",
            "completed",
        ):
            assert words in page
        total = made["usage"]["total_tokens"]
        assert f"<dd>{total}</dd>" in page

    def test_hostile_content_is_content(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        made = create(api, HOSTILE, metadata={"<script>": "<script>"}, instructions="<script>")
        page = checked(shown(browser.get(ONE.format(made["id"]))))
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert "<img" not in page
        for path in ("/raw", "/raw?part=input", "/items/0", "/items/1", "/delete"):
            checked(shown(browser.get(ONE.format(made["id"]) + path)))
        name = begin(api, "<script>alert(1)</script>", metadata={"<b>": "<script>"})
        add(api, name, *HOSTILE)
        checked(shown(browser.get(f"{UI}/conversations/{name}")))
        checked(shown(browser.get(f"{UI}/conversations")))

    def test_a_call_is_shown_with_what_the_next_turn_gave(
        self, browser: httpx2.Client, api: httpx2.Client
    ) -> None:
        tools = [{"type": "function", "name": "get_weather", "parameters": {"type": "object"}}]
        asked = create(api, '::call get_weather {"city": "Oslo"}', tools=tools)
        page = shown(browser.get(ONE.format(asked["id"])))
        assert "No output yet" in page
        [call_id] = [item["call_id"] for item in asked["output"] if item["type"] == "function_call"]
        given = [{"type": "function_call_output", "call_id": call_id, "output": "snow"}]
        answered = create(api, given, previous_response_id=asked["id"], tools=tools)
        page = checked(shown(browser.get(ONE.format(asked["id"]))))
        assert "given by the next turn" in page
        assert "snow" in page
        page = checked(shown(browser.get(ONE.format(answered["id"]))))
        assert "from the turn before" in page
        assert "Oslo" in page
        assert f'href="/ui/responses/{asked["id"]}"' in page

    def test_a_long_text_is_cut_and_can_be_had_whole(
        self, browser: httpx2.Client, api: httpx2.Client
    ) -> None:
        made = create(api, "start " + "word " * 30_000 + "finish")
        page = shown(browser.get(ONE.format(made["id"])))
        assert len(page) < 80_000
        assert "finish</p>" not in page
        [whole] = [link for link in links(page) if "/items/" in link]
        assert "finish" in checked(shown(browser.get(whole)))
        assert browser.get(ONE.format(made["id"]) + "/items/9").status_code == 404

    def test_many_items_are_read_in_parts(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        made = create(api, [{"role": "user", "content": f"item {number}."} for number in range(250)])
        page = shown(browser.get(ONE.format(made["id"])))
        assert "item 199." in page
        assert "item 200." not in page
        [more] = re.findall(r'href="([^"]+\?from=\d+)"', page)
        page = checked(shown(browser.get(more)))
        assert "item 200." in page
        assert "I was given 250 items" in page

    def test_the_json(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        made = create(api, "Hi")
        page = shown(browser.get(ONE.format(made["id"]) + "/raw"))
        assert made["output"][0]["content"][0]["text"].replace('"', "&#34;") in page.replace("\\", "")
        file = browser.get(ONE.format(made["id"]) + "/response.json")
        assert file.json() == made
        assert file.headers["content-disposition"] == f'attachment; filename="{made["id"]}.response.json"'
        [item] = browser.get(ONE.format(made["id"]) + "/input.json").json()
        assert item["content"][0]["text"] == "Hi"
        assert browser.get(ONE.format(made["id"]) + "/other.json").status_code == 400

    def test_how_it_failed(self, browser: httpx2.Client, api: httpx2.Client, site: Site) -> None:
        assert (
            api.post(
                CREATE,
                json={"model": "offline", "input": "::words 3 0\n::fail server_error", "user": "fails"},
            ).status_code
            == 500
        )
        page = checked(shown(browser.get(HOME, params={"status": "failed", "user": "fails"})))
        [failed] = re.findall(r'id="r-(resp_\w+)"', page)
        page = checked(shown(browser.get(ONE.format(failed))))
        assert "as the rehearsal line asked" in page
        assert '<span class="chip failed"' in page
        made = create(api, "::words 100 0", max_output_tokens=16)
        assert "max output tokens" in checked(shown(browser.get(ONE.format(made["id"]))))

    def test_refusals_and_thoughts(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        made = create(api, "::reason Let me see.\n::refuse I will not.\nDo it")
        page = checked(shown(browser.get(ONE.format(made["id"]))))
        assert re.search(
            r"<details class=\"entry reasoning\">\s*<summary>Reasoning</summary>\s*<div class=\"prose\"><p>Let me see",
            page,
        )
        assert "Refused" in page
        assert "I will not." in page


class TestActions:
    def test_deleting_is_asked_about_first(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        made = create(api)["id"]
        page = checked(shown(browser.get(ONE.format(made))))
        assert f'href="/ui/responses/{made}/delete"' in page
        page = checked(shown(browser.get(ONE.format(made) + "/delete")))
        assert f'<form method="post" action="/ui/responses/{made}/delete"' in page
        assert api.get(f"{CREATE}/{made}").status_code == 200
        answer = browser.post(ONE.format(made) + "/delete", headers=OURS)
        assert answer.headers["location"] == f"{HOME}?done=deleted"
        assert "The response was deleted" in shown(browser.get(answer.headers["location"]))
        assert api.get(f"{CREATE}/{made}").status_code == 404
        shown(browser.post(ONE.format(made) + "/delete", headers=OURS), 404)

    def test_cancelling_is_final_and_may_be_done_twice(
        self, browser: httpx2.Client, api: httpx2.Client
    ) -> None:
        made = create(api, "hi", background=True)["id"]
        page = checked(shown(browser.get(ONE.format(made))))
        assert "Waiting for a worker" in page
        assert f"/ui/responses/{made}/turn?seen=queued" in page
        assert "Delete" not in page
        assert browser.get(ONE.format(made) + "/turn?seen=queued").status_code == 204
        assert "in-flight" in shown(browser.get(ONE.format(made) + "/delete"), 400)
        assert "in-flight" in shown(browser.post(ONE.format(made) + "/delete", headers=OURS), 400)
        assert "Cancel this response?" in checked(shown(browser.get(ONE.format(made) + "/cancel")))
        for _ in range(2):
            answer = browser.post(ONE.format(made) + "/cancel", headers=OURS)
            assert (answer.status_code, answer.headers["location"]) == (303, f"{HOME}/{made}")
        assert api.get(f"{CREATE}/{made}").json()["status"] == "cancelled"
        page = checked(shown(browser.get(ONE.format(made) + "/turn?seen=queued")))
        assert page.lstrip().startswith('<div id="response"')
        assert "A cancelled response has no output" in page
        assert browser.get(ONE.format(made) + "/cancel").headers["location"] == f"{HOME}/{made}"

    def test_what_has_ended_is_not_cancelled(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        made = create(api)["id"]
        assert browser.post(ONE.format(made) + "/cancel", headers=OURS).status_code == 303
        assert api.get(f"{CREATE}/{made}").json()["status"] == "completed"


class TestConversations:
    def test_one_is_read_with_the_responses_that_made_it(
        self, browser: httpx2.Client, api: httpx2.Client
    ) -> None:
        name = begin(api, "My name is Ada.", metadata={"topic": "names"})
        made = create(api, "Who am I?", conversation=name)["id"]
        page = checked(shown(browser.get(f"{UI}/conversations")))
        assert name in page
        assert "names" in page
        page = checked(shown(browser.get(f"{UI}/conversations/{name}")))
        assert "Items that were added" in page
        assert f'href="/ui/responses/{made}"' in page
        assert page.index("My name is Ada.") < page.index("Who am I?") < page.index("I was given 2 items")
        page = shown(browser.get(f"{UI}/conversations/{name}", params={"order": "desc"}))
        assert page.index("Who am I?") < page.index("My name is Ada.</p>")
        page = shown(browser.get(f"{HOME}/{made}"))
        assert f'href="/ui/conversations/{name}"' in page

    @pytest.mark.parametrize("order", ["asc", "desc"])
    def test_a_long_one_has_pages(self, browser: httpx2.Client, api: httpx2.Client, order: str) -> None:
        name = begin(api)
        for start in range(0, 120, 20):
            add(api, name, *(f"item {number}." for number in range(start, start + 20)))
        seen = list[str]()
        path = f"{UI}/conversations/{name}?order={order}"
        for _ in range(3):
            page = shown(browser.get(path))
            seen += sorted(re.findall(r"item (\d+)\.", page), key=int, reverse=order == "desc")
            path = (re.findall(r'href="([^"]+)" rel="next"', page) or [""])[0].replace("&amp;", "&")
        assert not path
        expected = [str(number) for number in range(120)]
        assert seen == (expected if order == "asc" else expected[::-1])

    def test_one_item_is_shown_whole(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        name = begin(api)
        add(api, name, {"role": "user", "content": "word " * 20_000 + "finish", "id": "msg_odd-ID"})
        page = shown(browser.get(f"{UI}/conversations/{name}"))
        [whole] = [link for link in links(page) if "/items/" in link]
        assert "finish" in checked(shown(browser.get(whole)))

    def test_an_empty_one(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        page = shown(browser.get(f"{UI}/conversations/{begin(api)}"))
        assert "There are no items in it" in page

    def test_an_unknown_place_is_refused(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        answer = browser.get(f"{UI}/conversations/{begin(api)}", params={"after": "msg_1"})
        assert "Invalid &#39;after&#39;" in shown(answer, 400)


NOTED = """
    select action from audit_outbox where key_id = $1
    union all select action from audit_records where key_id = $1
"""


async def test_what_a_key_that_audits_has_looked_at_is_noted(site: Site, api: httpx2.Client) -> None:
    """As in the API."""
    key = await new_key(site.database_url, "ours", Scope.AUDIT)
    made, name = create(api, "looked at"), begin(api, "looked at")
    with visiting(site.server, key) as auditor:
        for path in (HOME, f"{HOME}/{made['id']}", f"{UI}/conversations/{name}"):
            shown(auditor.get(path))

    async def all_are() -> bool:
        noted = {row["action"] for row in await execute(site.database_url, NOTED, key.id)}
        return noted >= {Action.RESPONSES_LISTED, Action.RESPONSE_READ, Action.CONVERSATION_READ}

    await until(all_are)
