"""Turning an accepted request into a stored response."""
