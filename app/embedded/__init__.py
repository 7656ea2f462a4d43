"""Servers of our own for the one-command default. Only the command line imports this."""
