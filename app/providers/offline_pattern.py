"""A string that matches a regular expression, made from the expression itself.

Covers what people write in JSON schemas: literals, classes, groups, alternatives and quantifiers.
Nothing is ever *matched*, so no expression of a caller can make this slow. What is not covered
(look-around, back references, flags) is refused by name.
"""

from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase, digits, punctuation

from app.providers.offline_keywords import Unsatisfiable

MAX_LENGTH = 10_000
"""Characters. A longer string is refused rather than made: an expression may ask for any length."""

_Ranges = list[tuple[str, str]]

_CLASSES: dict[str, _Ranges] = {
    "d": [("0", "9")],
    "w": [("a", "z"), ("A", "Z"), ("0", "9"), ("_", "_")],
    "s": [(" ", " "), ("\t", "\r")],
    # The printable ASCII of the complement: enough to choose from, and to stay clear of.
    "D": [("a", "z"), ("A", "Z"), (" ", "/"), (":", "@")],
    "W": [(" ", "/"), (":", "@")],
    "S": [("a", "z"), ("!", "~")],
}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_CANDIDATES = ascii_lowercase + digits + ascii_uppercase + " " + punctuation

_Term = tuple["str | list[_Term]", int, int]
"""A literal or a group, how often it stands at least, and at most."""


def matching(pattern: str, *, min_length: int = 0) -> str:
    """A string that `pattern` matches, of `min_length` characters or little more where it can stretch."""
    parser = _Parser(pattern)
    terms = parser.alternatives()
    if parser.place < len(pattern):
        raise Unsatisfiable(f"Unbalanced parenthesis in the pattern {pattern!r}.")
    shortest, _ = _written(terms, 0)
    return _written(terms, min(min_length, MAX_LENGTH) - len(shortest))[0]


def _written(terms: Sequence[_Term], missing: int) -> tuple[str, int]:
    """The terms, the leftmost repeated for `missing` more characters; and how many are still missing."""
    text = ""
    for term, least, most in terms:
        if isinstance(term, str):
            unit = term
        elif least == most == 1:
            unit, missing = _written(term, missing)
        else:
            unit, _ = _written(term, 0)
        extra = min(most - least, -(-missing // len(unit))) if unit and missing > 0 else 0
        if len(text) + len(unit) * (least + extra) > MAX_LENGTH:
            raise Unsatisfiable(f"The pattern asks for more than {MAX_LENGTH} characters.")
        missing -= len(unit) * extra
        text += unit and unit * (least + extra)
    return text, missing


class _Parser:
    """Reads an expression once, left to right, and keeps the first of every set of alternatives."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.place = 0
        self.depth = 0

    def alternatives(self) -> list[_Term]:
        first = self._sequence()
        while self._takes("|"):
            self._sequence()
        return first

    def _sequence(self) -> list[_Term]:
        terms: list[_Term] = []
        while self.place < len(self.pattern) and self._peek() not in "|)":
            terms.append((self._atom(), *self._quantifier()))
        return terms

    def _atom(self) -> str | list[_Term]:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == "\\":
            return self._escape()
        if char in "*+?":
            raise Unsatisfiable(f"Nothing to repeat in the pattern {self.pattern!r}.")
        # Anchors are empty: what is made is always the whole string.
        return {"^": "", "$": "", ".": "a"}.get(char, char)

    def _group(self) -> list[_Term]:
        if self._takes("?") and not self._takes(":") and not self._takes_name():
            raise Unsatisfiable(f"Look-around and flags are not supported in the pattern {self.pattern!r}.")
        self.depth += 1
        if self.depth > 50:
            raise Unsatisfiable("The pattern nests too deeply.")
        terms = self.alternatives()
        self.depth -= 1
        if not self._takes(")"):
            raise Unsatisfiable(f"Unbalanced parenthesis in the pattern {self.pattern!r}.")
        return terms

    def _takes_name(self) -> bool:
        opening = "P<" if self.pattern.startswith("P<", self.place) else "<"
        start = self.place + len(opening)
        end = self.pattern.find(">", start)
        if not self.pattern.startswith(opening, self.place) or self.pattern[start : start + 1] in {"=", "!"}:
            return False
        self.place = end + 1 if end > 0 else len(self.pattern)
        return True

    def _class(self) -> str:
        is_negated = self._takes("^")
        ranges: _Ranges = []
        while not self._takes("]") or not ranges:
            ranges += self._members(self._next())
        if not is_negated:
            return ranges[0][0]
        for char in _CANDIDATES:
            if not any(low <= char <= high for low, high in ranges):
                return char
        raise Unsatisfiable(f"No character fits a class of the pattern {self.pattern!r}.")

    def _members(self, char: str) -> _Ranges:
        if char == "\\":
            if self._peek() in _CLASSES:
                return _CLASSES[self._next()]
            char = self._escape()
        if self._peek() != "-" or self.pattern[self.place + 1 : self.place + 2] in {"]", ""}:
            return [(char, char)]
        self._next()
        last = self._next()
        return [(char, self._escape() if last == "\\" else last)]

    def _escape(self) -> str:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char][0][0]
        if char in "xu":
            return self._code(2 if char == "x" else 4)
        if char in "bBAZz":
            return ""
        if char in "pPkG" or char in "123456789":
            raise Unsatisfiable(f"'\\{char}' is not supported in the pattern {self.pattern!r}.")
        return _CONTROLS.get(char, char)

    def _code(self, width: int) -> str:
        code = self.pattern[self.place : self.place + width]
        self.place += width
        try:
            char = chr(int(code, 16))
        except ValueError:
            raise Unsatisfiable(f"Bad escape in the pattern {self.pattern!r}.") from None
        if "\ud800" <= char <= "\udfff":
            raise Unsatisfiable(f"Surrogates are not supported in the pattern {self.pattern!r}.")
        return char

    def _quantifier(self) -> tuple[int, int]:
        simple = {"*": (0, MAX_LENGTH), "+": (1, MAX_LENGTH), "?": (0, 1)}.get(self._peek())
        if simple:
            self.place += 1
        bounds = simple or self._braces()
        if bounds != (1, 1):
            # Lazy or possessive, the same strings match.
            _ = self._takes("?") or self._takes("+")
        return bounds

    def _braces(self) -> tuple[int, int]:
        end = self.pattern.find("}", self.place)
        least, comma, most = self.pattern[self.place + 1 : end].partition(",")
        if self._peek() != "{" or end < 0 or not least.isdecimal() or not (most or "0").isdecimal():
            return 1, 1
        self.place = end + 1
        return int(least), int(most) if most else (MAX_LENGTH if comma else int(least))

    def _peek(self) -> str:
        return self.pattern[self.place : self.place + 1]

    def _takes(self, char: str) -> bool:
        taken = self.pattern.startswith(char, self.place)
        self.place += taken
        return taken

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise Unsatisfiable(f"The pattern {self.pattern!r} ends too early.")
        self.place += 1
        return char
