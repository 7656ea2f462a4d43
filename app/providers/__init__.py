"""Upstream models. Adapters know neither each other nor the store."""
