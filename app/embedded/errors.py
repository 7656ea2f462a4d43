"""What keeps the one-command default from starting, in words for the person at the terminal."""


class CannotStart(Exception):
    """Something outside our power is in the way. The message says what, in one line, and what to do."""
