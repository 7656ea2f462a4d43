"""Holdfast: the durable server of the Responses API. Importing it starts nothing."""
