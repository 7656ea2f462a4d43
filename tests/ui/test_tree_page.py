"""The tree of a response: who it came from, who stands beside it, who came of it, and the ways between."""

import asyncio
import re
from collections.abc import AsyncGenerator, Generator
from uuid import UUID

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from app import ids
from app.domain.audit import Action
from app.domain.keys import Key
from app.domain.tenancy import Scope
from tests.api.asking import CREATE, MISSING, create
from tests.api.conversing import add, begin
from tests.background import execute
from tests.keys import client_with, new_key
from tests.ui.browsing import DESKTOP, NARROWEST, PHONE, chromium, window
from tests.ui.conftest import Site
from tests.ui.growing import deepen, widen
from tests.ui.test_browser import picture, tab_to
from tests.ui.test_pages import checked, links
from tests.ui.visiting import HOME, UI, shown, visiting
from tests.waiting import until

NOTED = """
    select subject, data from audit_outbox where key_id = $1 and action = $2
    union all select subject, data from audit_records where key_id = $1 and action = $2
"""


def tree(name: str, more: str = "") -> str:
    return f"{HOME}/{name}/tree{more}"


def shown_ids(page: str) -> list[str]:
    """The responses that the page leads to, in their order; the one that it is about leads to itself."""
    return re.findall(r'class="gist" href="/ui/responses/(resp_\w+)', page)


def key_of(response: dict[str, str]) -> UUID:
    key = ids.parse_response_id(response["id"])
    assert key
    return key


@pytest.fixture(scope="module")
def key(site: Site) -> Key:
    """Of a tenant of this module's own: others count what has failed in theirs."""
    return asyncio.run(new_key(site.database_url, "trees"))


@pytest.fixture(scope="module")
def api(site: Site, key: Key) -> Generator[httpx2.Client]:
    with client_with(site.server, key) as client:
        yield client


@pytest.fixture(scope="module")
def browser(site: Site, key: Key) -> Generator[httpx2.Client]:
    with visiting(site.server, key) as client:
        yield client


class TestFamily:
    def test_it_stands_between_those_before_beside_and_after(
        self, browser: httpx2.Client, api: httpx2.Client
    ) -> None:
        root = create(api, "root")
        parent = create(api, "parent", previous_response_id=root["id"])
        first, own, last = (create(api, word, previous_response_id=parent["id"]) for word in "abc")
        children = [create(api, f"child {word}", previous_response_id=own["id"]) for word in "xyz"]
        create(api, "grandchild", previous_response_id=children[1]["id"])
        page = checked(shown(browser.get(tree(own["id"]))))
        family = [root, parent, first, own, *children, last]
        assert shown_ids(page) == [each["id"] for each in family]
        assert re.search(r'<li aria-current="true">.*?child x.*?child z.*?</ul>', page, re.DOTALL)
        assert page.count('aria-current="true"') == 2, "the other one is in the navigation"
        assert page.count("1 follows") == 1
        assert f'href="{HOME}?root={root["id"]}"' in page
        everybody = shown(browser.get(HOME, params={"root": root["id"]}))
        assert all(each["id"] in everybody for each in family)

    def test_a_response_leads_to_it(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        made = create(api, "alone")
        [to_tree] = [link for link in links(shown(browser.get(f"{HOME}/{made['id']}"))) if "/tree" in link]
        page = checked(shown(browser.get(to_tree)))
        assert "Nothing follows it." in page
        assert shown_ids(page) == [made["id"]]

    def test_who_failed_is_told_apart(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        root = create(api, "root")
        body = {"model": "offline", "input": "::fail server_error", "previous_response_id": root["id"]}
        api.post(CREATE, json=body)
        create(api, "well", previous_response_id=root["id"])
        page = shown(browser.get(tree(root["id"])))
        assert re.findall(r'class="chip (\w+)"', page) == ["completed", "failed"]

    def test_of_who_was_deleted_only_the_place_is_told(
        self, browser: httpx2.Client, api: httpx2.Client
    ) -> None:
        root = create(api, "the secret root")
        middle = create(api, "the secret middle", previous_response_id=root["id"])
        leaf = create(api, "leaf", previous_response_id=middle["id"])
        gone = create(api, "the secret sister", previous_response_id=middle["id"])
        for each in (root, middle, gone):
            assert api.delete(f"{CREATE}/{each['id']}").status_code == 200
        page = checked(shown(browser.get(tree(leaf["id"]))))
        assert page.count("Deleted") == 2
        assert "secret" not in page
        assert shown_ids(page) == [leaf["id"]]
        assert middle["id"] in page
        assert gone["id"] not in page
        for each in (root, middle, gone):
            shown(browser.get(tree(each["id"])), 404)

    def test_a_conversation_is_a_root_that_can_be_read(
        self, browser: httpx2.Client, api: httpx2.Client
    ) -> None:
        name = begin(api, "My name is Ada.")
        turns = [create(api, f"turn {word}", conversation=name) for word in "ab"]
        add(api, name, "between")
        turns.append(create(api, "turn c", conversation=name))
        page = checked(shown(browser.get(tree(turns[-1]["id"]))))
        assert f'href="{UI}/conversations/{name}"' in page
        assert shown_ids(page) == [each["id"] for each in turns]
        assert f'href="{HOME}?root={name}"' in page

    async def test_what_a_reader_who_audits_sees_is_noted(self, site: Site) -> None:
        key = await new_key(site.database_url, "noted", Scope.WRITE | Scope.AUDIT)
        with client_with(site.server, key) as api, visiting(site.server, key) as browser:
            root = create(api, "root")
            made = create(api, "leaf", previous_response_id=root["id"])
            shown(browser.get(tree(made["id"])))

        async def noted() -> bool:
            found = await execute(site.database_url, NOTED, key.id, Action.RESPONSES_LISTED)
            return [(row["subject"], row["data"]) for row in found] == [(key_of(made), '{"count":2}')]

        await until(noted)

    @pytest.mark.parametrize(
        "query", ["above=-1", "above=x", "children_after=x", "siblings_after=resp_1", "above=99999999999"]
    )
    def test_what_cannot_be_asked_is_refused_in_words(
        self, browser: httpx2.Client, api: httpx2.Client, query: str
    ) -> None:
        made = create(api)["id"]
        assert "Invalid" in shown(browser.get(tree(made, f"?{query}")), 400)

    def test_cursors_of_others_lead_nowhere(self, browser: httpx2.Client, api: httpx2.Client) -> None:
        root = create(api, "root")
        made = create(api, "leaf", previous_response_id=root["id"])["id"]
        query = f"?above=2000000000&children_after={MISSING}&siblings_after=resp_{'f' * 32}"
        assert shown_ids(checked(shown(browser.get(tree(made, query))))) == [root["id"], made]


@pytest.fixture(scope="module")
def deep(site: Site, api: httpx2.Client) -> list[str]:
    """The names of a chain of a thousand and one."""
    root = create(api, "the very first")
    shown_once(api)
    return [ids.response_id(key) for key in asyncio.run(deepen(site.database_url, key_of(root)))]


@pytest.fixture(scope="module")
def wide(site: Site, api: httpx2.Client) -> list[str]:
    """The names of one and a thousand that follow it."""
    root = create(api, "the one before all")
    shown_once(api)
    children = asyncio.run(widen(site.database_url, key_of(root)))
    return [root["id"], *map(ids.response_id, children)]


def shown_once(api: httpx2.Client) -> None:
    """Whoever reads has the facts made first."""
    assert api.get(CREATE, params={"model": "offline", "limit": 1}).status_code == 200


class TestLargeTrees:
    def test_of_a_long_chain_the_nearest_and_the_root_are_shown(
        self, browser: httpx2.Client, deep: list[str]
    ) -> None:
        page = checked(shown(browser.get(tree(deep[-1]))))
        assert shown_ids(page) == [deep[0], *deep[-21:]]
        assert "979 earlier" in page

    def test_a_long_chain_is_walked_up_to_its_root_and_back(
        self, browser: httpx2.Client, deep: list[str]
    ) -> None:
        path, page, seen, pages = tree(deep[-1]), "", set[str](), 0
        while path:
            page = shown(browser.get(path))
            seen |= set(shown_ids(page))
            pages += 1
            path = next((link for link in links(page) if "above=" in link), "")
            assert "later, up to this one" in page or pages == 1
        assert seen == set(deep)
        assert pages == 50
        assert f"{tree(deep[-1])}#here" in links(page)

    def test_from_the_middle_of_a_chain(self, browser: httpx2.Client, deep: list[str]) -> None:
        page = shown(browser.get(tree(deep[20])))
        assert shown_ids(page) == deep[:22]
        assert "earlier" not in page

    def test_of_many_children_some_are_shown_and_the_others_by_pages(
        self, browser: httpx2.Client, wide: list[str]
    ) -> None:
        path, page, seen = tree(wide[0]), "", list[str]()
        while path:
            page = checked(shown(browser.get(path)))
            found = shown_ids(page)
            assert len(found) <= 31
            seen += found[1:]
            path = next((link.partition("#")[0] for link in links(page) if "children_after=" in link), "")
        assert seen == wide[1:]
        assert "The first that follow" in page

    def test_beside_it_are_its_neighbours(self, browser: httpx2.Client, wide: list[str]) -> None:
        page = checked(shown(browser.get(tree(wide[500]))))
        assert shown_ids(page) == [wide[0], *wide[495:506]]
        assert "over 100 follow" in page

    @pytest.mark.parametrize(("place", "ways"), [(1, ["Later"]), (6, ["Later"]), (1000, ["Earlier"])])
    def test_at_the_ends_there_is_one_way(
        self, browser: httpx2.Client, wide: list[str], place: int, ways: list[str]
    ) -> None:
        page = shown(browser.get(tree(wide[place])))
        assert re.findall(r">(Earlier|Later) ones beside it<", page) == ways

    def test_neighbours_are_walked_to_both_ends(self, browser: httpx2.Client, wide: list[str]) -> None:
        own = wide[500]
        for words, upto in (("Earlier", wide[1]), ("Later", wide[-1])):
            path, page, seen, pages = tree(own), "", set[str](), 0
            while path:
                page = checked(shown(browser.get(path)))
                seen |= set(shown_ids(page))
                assert own in shown_ids(page)
                pages += 1
                ways = re.findall(rf'href="([^"]+)"[^>]*>{words} ones beside it<', page)
                path = ways[0].replace("&amp;", "&") if ways else ""
            assert upto in seen
            assert pages <= 50
            assert "Those nearest to it" in page
            half = wide[1:501] if words == "Earlier" else wide[500:]
            assert set(half) <= seen


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chrome() -> AsyncGenerator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def trees(api: httpx2.Client, deep: list[str], wide: list[str]) -> dict[str, str]:
    """A tree of every kind, by a name for it."""
    name = begin(api, "My name is Ada.")
    spoken = create(api, "Who am I?", conversation=name)
    root = create(api, "the secret root")
    leaf = create(api, "And " + "averylongwordwithoutanyspace" * 12, previous_response_id=root["id"])
    create(api, "::words 100 0", previous_response_id=leaf["id"], max_output_tokens=16)
    api.post(
        CREATE, json={"model": "offline", "input": "::fail server_error", "previous_response_id": leaf["id"]}
    )
    api.delete(f"{CREATE}/{root['id']}")
    return {
        "deep": f"/responses/{deep[-1]}/tree",
        "deep-further": f"/responses/{deep[-1]}/tree?above=500",
        "wide": f"/responses/{wide[0]}/tree",
        "beside": f"/responses/{wide[500]}/tree",
        "in-conversation": f"/responses/{spoken['id']}/tree",
        "after-deleted": f"/responses/{leaf['id']}/tree",
    }


@pytest.mark.asyncio(loop_scope="module")
class TestInTheBrowser:
    @pytest.mark.parametrize(
        ("size", "scheme"), [(PHONE, "light"), (DESKTOP, "dark")], ids=["phone", "desktop"]
    )
    async def test_it_is_sound(
        self, chrome: Browser, site: Site, key: Key, trees: dict[str, str], size: tuple[int, int], scheme: str
    ) -> None:
        async with window(chrome, site.server, size=size, color_scheme=scheme) as visit:
            await visit.log_in(key)
            for name, path in trees.items():
                await visit.go(path)
                await picture(visit, f"tree-{name}", size)
                await visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                await visit.check()

    async def test_the_narrowest_phone_scrolls_in_one_direction_alone(
        self, chrome: Browser, site: Site, key: Key, trees: dict[str, str]
    ) -> None:
        async with window(chrome, site.server, size=NARROWEST) as visit:
            await visit.log_in(key)
            for path in trees.values():
                await visit.go(path)
                await visit.check_width()

    async def test_it_is_walked_by_keyboard(
        self, chrome: Browser, site: Site, key: Key, api: httpx2.Client
    ) -> None:
        """From a response to its tree, down to a child, up to the root, and to reading it."""
        made = await asyncio.to_thread(_branch, api)
        async with window(chrome, site.server) as visit:
            page = visit.page
            await visit.log_in(key)
            await visit.go(f"/responses/{made['middle']}")
            await tab_to(visit, "Where it stands")
            await page.keyboard.press("Enter")
            await page.wait_for_url("**/tree#here")
            await expect(page.locator("li[aria-current]")).to_contain_text("the middle")
            await expect(page.locator("#here")).to_be_in_viewport()
            await tab_to(visit, "the second leaf")
            await page.keyboard.press("Enter")
            await page.wait_for_url(f"**/{made['leaf']}/tree#here")
            await expect(page.locator("li[aria-current]")).to_contain_text("the second leaf")
            await visit.go(f"/responses/{made['leaf']}/tree")
            await tab_to(visit, "the trunk")
            await page.keyboard.press("Enter")
            await page.wait_for_url(f"**/{made['root']}/tree#here")
            await visit.check()
            await tab_to(visit, "the trunk")
            await page.keyboard.press("Enter")
            await page.wait_for_url(f"**/responses/{made['root']}")


def _branch(api: httpx2.Client) -> dict[str, str]:
    root = create(api, "the trunk")["id"]
    middle = create(api, "the middle", previous_response_id=root)["id"]
    leaves = [
        create(api, f"the {word} leaf", previous_response_id=middle)["id"] for word in ("first", "second")
    ]
    return {"root": root, "middle": middle, "leaf": leaves[1]}
