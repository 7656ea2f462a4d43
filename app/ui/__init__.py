"""The page at /ui: what was said, for people to read. Rendered here, with no build step and no other host."""
