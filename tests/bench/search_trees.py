"""Where made-up responses stand: roots, lines that go on, forks, conversations, and a few unlikely shapes."""

import random
from dataclasses import dataclass
from uuid import UUID

from app.domain.response import CHAINABLE, Status
from app.domain.turn import Place

NEW_SHARE = 0.3
CONVERSATION_SHARE = 0.1
"""Of the roots."""
FORK_SHARE = 0.04
DEEP_SHARE, WIDE_SHARE, TREE_SHARE = 0.0015, 0.0012, 0.006


@dataclass(slots=True)
class Node:
    """A response that others may go on from."""

    id: UUID
    place: Place
    conversation: UUID | None
    has_heir: bool = False
    """Whether its line goes on already: a next child begins one of its own."""
    slot: int | None = None
    """Among those that are gone on with."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a response stands."""

    previous: UUID | None
    place: Place
    conversation: UUID | None


def root_of(place: Place) -> UUID:
    return place.forks[0][0] if place.forks else place.chain_id


class Growth:
    """One tenant's trees as they grow."""

    def __init__(self, rng: random.Random, open_lines: int) -> None:
        """Begin with nothing. So many lines are gone on with at any time."""
        self._rng = rng
        self._open_lines = open_lines
        self._tips: list[Node] = []
        self._passed: list[Node] = []
        self.deep: Node | None = None
        """The end of a long chain."""
        self.wide: Node | None = None
        """One with many children."""
        self.tree: list[Node] = []
        """A tree in which every node is as likely to have the next child; the root first."""

    def stand(self, new_id: UUID, status: Status) -> Standing:
        """Give a new response its place."""
        parent = self._parent()
        found = self._child(parent, new_id, status) if parent else self._root(new_id, status)
        if status in CHAINABLE:
            self._remember(Node(new_id, found.place, found.conversation), parent)
        return found

    def _parent(self) -> Node | None:
        draw = self._rng.random()
        for share, nodes in ((DEEP_SHARE, [self.deep]), (WIDE_SHARE, [self.wide]), (TREE_SHARE, self.tree)):
            if draw < share and nodes and nodes[0]:
                return self._rng.choice(nodes)
            draw -= share
        if draw < NEW_SHARE or len(self._tips) < self._open_lines:
            return None
        if draw < NEW_SHARE + FORK_SHARE:
            return self._rng.choice(self._passed) if self._passed else None
        return self._rng.choice(self._tips)

    def _root(self, new_id: UUID, status: Status) -> Standing:
        if self._rng.random() >= CONVERSATION_SHARE or not self.tree:
            return Standing(None, Place(new_id, 0), None)
        conversation = UUID(int=new_id.int ^ 1)
        place = Place(conversation, 0)
        return Standing(None, place if status in CHAINABLE else place.elsewhere(new_id), conversation)

    @staticmethod
    def _child(parent: Node, new_id: UUID, status: Status) -> Standing:
        place = parent.place.next()
        if parent.has_heir or status not in CHAINABLE:
            place = place.elsewhere(new_id)
        else:
            parent.has_heir = True
        return Standing(None if parent.conversation else parent.id, place, parent.conversation)

    def _remember(self, node: Node, parent: Node | None) -> None:
        if parent is None:
            self._begin(node)
        elif parent is self.deep:
            self.deep = node
        elif self.tree and root_of(node.place) == self.tree[0].id:
            self.tree.append(node)
        elif parent.slot is not None:
            self._pass(parent.slot, node)

    def _begin(self, node: Node) -> None:
        """The first roots are those of the unlikely shapes; each later one is gone on with, for a while."""
        if node.conversation is None and (self.deep is None or self.wide is None or not self.tree):
            if self.deep is None:
                self.deep = node
            elif self.wide is None:
                self.wide = node
            else:
                self.tree.append(node)
        elif len(self._tips) < self._open_lines:
            self._tips.append(node)
            node.slot = len(self._tips) - 1
        else:
            self._pass(self._rng.randrange(self._open_lines), node)

    def _pass(self, slot: int, node: Node) -> None:
        """Go on with this one in the place of another, which may be forked from then."""
        node.slot, before = slot, self._tips[slot]
        self._tips[slot], before.slot = node, None
        if before.conversation is None:
            if len(self._passed) < self._open_lines:
                self._passed.append(before)
            else:
                self._passed[self._rng.randrange(self._open_lines)] = before
