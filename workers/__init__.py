"""A Celery shell around the service."""
