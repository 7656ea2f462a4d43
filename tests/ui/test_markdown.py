"""Markdown of strangers: nothing runs, nothing is loaded, nothing is left out."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ui.markdown import render

ALLOWED = {
    "p", "br", "h4", "h5", "h6", "strong", "em", "s", "code", "pre", "ul", "ol", "li", "blockquote", "hr",
    "a", "div", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTRIBUTES = {"href", "rel", "target", "class", "start", "role", "aria-label", "tabindex"}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen = list[tuple[str, dict[str, str | None]]]()
        self.open_links = self.most_open_links = 0
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag == "a":
            self.open_links += 1
            self.most_open_links = max(self.most_open_links, self.open_links)

    def handle_endtag(self, tag: str) -> None:
        self.open_links -= tag == "a"

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(str(render(text)))
    return tags


def check(text: str) -> Tags:
    tags = parsed(text)
    for tag, attributes in tags.seen:
        assert tag in ALLOWED, (tag, text)
        assert set(attributes) <= ATTRIBUTES, (attributes, text)
        if tag == "a":
            assert re.match(r"(?:https?://|mailto:)", attributes["href"] or "", re.IGNORECASE), text
            assert attributes["rel"] == "noopener noreferrer nofollow"
    assert tags.most_open_links <= 1
    return tags


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** and *b*", "<p><strong>a</strong> and <em>b</em></p>\n"),
        ("one\ntwo", "<p>one<br />\ntwo</p>\n"),
        ("# A\n###### B", "<h4>A</h4>\n<h6>B</h6>\n"),
        ("`<b>`", "<p><code>&lt;b&gt;</code></p>\n"),
    ],
)
def test_what_it_makes(text: str, html: str) -> None:
    assert str(render(text)) == html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a <b>b</b> <!-- c -->",
        "<div style='position:fixed'>x</div>",
    ],
)
def test_html_is_text(text: str) -> None:
    assert check(text).text.strip() == text


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "data:text/html;base64,PHNjcmlwdD4=",
        "vbscript:x",
        "file:///etc/passwd",
        "/ui/logout",
        "//evil.example",
        "ftp://x.example",
        "",
    ],
)
def test_a_link_leads_nowhere_but_to_the_web(url: str) -> None:
    for text in (f"[x]({url})", f"![x]({url})", f"<{url}>", f'[x]({url} "t")'):
        assert not [tag for tag, _ in check(text).seen if tag == "a"], text


def test_an_image_is_a_link_to_it() -> None:
    tags = check("![cat](https://x.example/cat.png)")
    assert [(tag, each.get("href")) for tag, each in tags.seen if tag == "a"] == [
        ("a", "https://x.example/cat.png")
    ]
    assert tags.text.strip() == "cat (image)"


def test_an_image_in_a_link_is_words_in_it() -> None:
    tags = check("[![cat](https://x.example/cat.png)](https://x.example)")
    assert [each["href"] for tag, each in tags.seen if tag == "a"] == ["https://x.example"]


@pytest.mark.parametrize(
    "text", ["[](https://x.example/empty)", "[x]: https://x.example 'said'", "[^1]: said"]
)
def test_nothing_that_was_written_is_left_out(text: str) -> None:
    tags = check(text)
    assert "https://x.example/empty" in tags.text or "said" in tags.text


def test_a_cell_is_aligned_by_a_class() -> None:
    html = render("|a|b|c|\n|-|-:|:-:|\n|1|2|3|")
    assert 'class="right"' in html
    assert 'class="centre"' in html
    assert "style" not in html


PIECES = st.sampled_from(
    ["[", "](", ")", "![", "<", ">", "*", "_", "`", "\n", "- ", "1. ", "|", "-", "> ", "#", " ", "\\", "&amp;", "~~",
     "http://a.b", "javascript:", '"', "'", "a", "\t", "]: ", "\0", "\u2028", "é", "<a href=x>", "```", "\ud800"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join))
def test_whatever_is_written_is_safe(text: str) -> None:
    check(text)
