"""Markdown to HTML that is safe to show: written by models and by strangers.

No HTML passes, nothing is loaded from elsewhere (an image becomes a link to it), a link leads to the web or
to a mail and never back into this server, and nothing that was written is left out: a definition of a
reference stays text, and a link without words shows its address.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

_ABROAD = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_SHIFT = 3
"""The page has headings of its own above those of a text."""


def is_abroad(url: str) -> bool:
    """Whether this is an address that may be linked to."""
    return _ABROAD.match(url) is not None


class _Renderer(RendererHTML):
    def link_open(self, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any) -> str:
        token = tokens[i]
        href = str(token.attrGet("href") or "")
        # Without any address it passes the reader's check, and would lead to this very page.
        env["link"] = href
        if not href:
            return ""
        token.attrs = {"href": href, "rel": "noopener noreferrer nofollow", "target": "_blank"}
        is_empty = i + 1 < len(tokens) and tokens[i + 1].type == "link_close"
        return self.renderToken(tokens, i, options, env) + (str(Markup.escape(href)) if is_empty else "")

    def link_close(self, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any) -> str:
        return self.renderToken(tokens, i, options, env) if env.pop("link", "") else ""

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        token = tokens[idx]
        words = Markup.escape(self.renderInlineAsText(token.children, options, env) or "untitled")
        source = token.attrGet("src")
        if env.get("link") or not source:
            return f"{words} (image)"
        link = Markup('<a href="{}" rel="noopener noreferrer nofollow" target="_blank">{} (image)</a>')
        return str(link.format(source, words))

    def heading_open(self, tokens: Sequence[Token], i: int, _: OptionsDict, __: Any) -> str:
        return f"<{_lower(tokens[i])}>"

    def heading_close(self, tokens: Sequence[Token], i: int, _: OptionsDict, __: Any) -> str:
        return f"</{_lower(tokens[i])}>\n"

    def table_open(self, *_: Any) -> str:
        return '<div class="scroll" role="group" aria-label="Table" tabindex="0"><table>\n'

    def table_close(self, *_: Any) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], i: int, _: OptionsDict, __: Any) -> str:
        return _aligned(tokens[i])

    def td_open(self, tokens: Sequence[Token], i: int, _: OptionsDict, __: Any) -> str:
        return _aligned(tokens[i])


def _lower(token: Token) -> str:
    return f"h{min(6, int(token.tag[1]) + _SHIFT)}"


_ALIGNED: Mapping[str, str] = {"text-align:right": "right", "text-align:center": "centre"}


def _aligned(token: Token) -> str:
    """A cell whose alignment is a class: no style stands in the page itself."""
    name = _ALIGNED.get(str(token.attrGet("style") or ""))
    return f'<{token.tag} class="{name}">' if name else f"<{token.tag}>"


def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Renderer)
    reader.enable(["table", "strikethrough"])
    reader.disable("reference")
    reader.validateLink = is_abroad
    return reader


_READER = _reader()


def render(text: str) -> Markup:
    """The text as HTML. It takes at worst about 20 µs a character, so its caller bounds it."""
    return Markup(_READER.render(text))  # noqa: S704 - what this module is for
