"""Webhooks: sign, send, and decide what comes next. Which are due is the store's to say."""
