"""Words and rules. Imports nothing that does I/O."""
