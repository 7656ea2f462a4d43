"""Made-up texts whose words are as unevenly used as those of a language, and words planted in so many of them."""

import itertools
import random
from collections.abc import Sequence

VOCABULARY = 30_000
POOL = 1 << 16
"""Tokens are drawn once in so many, and used up one after the other, then drawn anew."""

PLANTED = {
    f"needle{each}": each / 1_000_000 for each in (10, 100, 1000, 3000, 10_000, 30_000, 100_000, 300_000)
}
"""Words, each in this share of all texts."""

FORMERLY, LATELY = "formerly", "lately"
"""In a third of the first half of all texts, and of the second: and never in the other."""

LOCAL = "parochial"
"""In half of the texts of one model, and of no other."""

DAY, NIGHT = "daytime", "nighttime"
"""Each in two fifths of the texts, and never in the same."""

PHRASE = "red herring"
"""One after the other in a thousandth of the texts; both, but never so, in a tenth more."""

MISSING = "unheardof"


class Speaker:
    """Says something, and something else each time."""

    def __init__(self, rng: random.Random) -> None:
        """Make up the words."""
        self._rng = rng
        onsets, vowels = (
            ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "st", "tr"),
            "aeiou",
        )
        syllables = [onset + vowel for onset in onsets for vowel in vowels]
        made = ("".join(parts) for count in (1, 2, 3) for parts in itertools.product(syllables, repeat=count))
        self.vocabulary = list(itertools.islice(made, VOCABULARY))
        self._weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(VOCABULARY)))
        self._pool: Sequence[str] = ()
        self._used = 0

    def say(self, share: float, *, is_local: bool) -> tuple[str, str]:
        """A question and its answer.

        Args:
            share: how much of all there will be has been said.
            is_local: whether it is said by the one model that has a word of its own.
        """
        asked = self._take(int(self._rng.lognormvariate(3.3, 0.8)) + 3)
        answered = self._take(min(1500, int(self._rng.lognormvariate(4.6, 0.7)) + 5))
        return " ".join(asked), " ".join([*answered, *self._planted(share, is_local=is_local)])

    def _take(self, count: int) -> Sequence[str]:
        if self._used + count > len(self._pool):
            self._pool = self._rng.choices(self.vocabulary, cum_weights=self._weights, k=POOL)
            self._used = 0
        self._used += count
        return self._pool[self._used - count : self._used]

    def _planted(self, share: float, *, is_local: bool) -> list[str]:
        chance = self._rng.random
        found = [word for word, part in PLANTED.items() if chance() < part]
        if chance() < 1 / 3:
            found.append(FORMERLY if share < 0.5 else LATELY)
        if is_local and chance() < 0.5:
            found.append(LOCAL)
        found += [DAY] if (side := chance()) < 0.4 else [NIGHT] if side < 0.8 else []
        red, herring = PHRASE.split()
        found += [red, herring] if (order := chance()) < 0.001 else [herring, red] if order < 0.101 else []
        return found
