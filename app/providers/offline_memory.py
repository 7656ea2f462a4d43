"""How the offline model sums up a conversation, and how it answers what it was told: by looking at lines.

It keeps whole lines, those first that say they are to be kept (`Remember: …`, `Decision: …`, `Fact: …`,
`Note: …`, `Important: …`), then the other statements of users; of each kind the oldest first.
"""

import re
from collections.abc import Iterable, Iterator

from app.domain.compaction import SUMMARY_HEAD
from app.domain.compaction_prompt import EARLIER, PROMPT, TRANSCRIPT
from app.providers.offline_view import Items, text_of

NOTHING = "Nothing was stated."

_MARKED = re.compile(r"(remember|fact|decision|decided|note|important)\b", re.IGNORECASE)
_STATES = re.compile(r"\s(is|are|was|were|has|have|will|must|costs|lives|prefers|likes)\s|=|:\s")
_HEAD = re.compile(r"\[(\w+)[^\]]*\] (.*)")
_LIMIT = re.compile(r"At most (\d+) words\.")


def is_asked(instructions: str | None) -> bool:
    """Whether these are the instructions to sum a conversation up."""
    return (instructions or "").startswith(PROMPT)


def summary(question: str) -> str:
    """The summary for which `compaction_prompt.question` asks; never empty."""
    limit = _LIMIT.match(question)
    earlier, _, transcript = question.partition(TRANSCRIPT)
    before = earlier.partition(EARLIER)[2].splitlines()
    lines = dict.fromkeys([*filter(None, map(str.strip, before)), *_statements(transcript)])
    lines.pop(NOTHING, None)
    ranked = sorted(lines, key=lambda line: _MARKED.match(line) is None)
    return "\n".join(_within(ranked, int(limit[1]) if limit else 100)) or NOTHING


def recalled(items: Items, words: str) -> str:
    """The last line before the last message that has all these words, of a user's or of a summary."""
    wanted = words.lower().split()
    for line in reversed(list(_known(items))):
        if all(word in line.lower() for word in wanted):
            return line
    return f"I know nothing of {words}."


def _known(items: Items) -> Iterator[str]:
    """Every line that may be recalled; the last message is the question."""
    places = [place for place, item in enumerate(items) if item.get("role") == "user"]
    for item in items[: places[-1]] if places else ():
        text = text_of(item.get("content"))
        if item.get("role") == "user":
            yield from (line for line in text.splitlines() if not line.startswith("::"))
        elif item.get("role") == "assistant" and text.startswith(SUMMARY_HEAD):
            yield from text.removeprefix(SUMMARY_HEAD).splitlines()


def _statements(transcript: str) -> Iterator[str]:
    speaker = ""
    for line in transcript.splitlines():
        head = _HEAD.match(line)
        speaker, said = (head[1], head[2]) if head else (speaker, line)
        said = said.strip()
        is_stated = speaker == "user" and _STATES.search(said) and not said.endswith("?")
        if (is_stated or _MARKED.match(said)) and not said.startswith("::"):
            yield said


def _within(lines: Iterable[str], words: int) -> Iterator[str]:
    """The lines that there is room for."""
    for line in lines:
        words -= len(line.split())
        if words < 0:
            return
        yield line
