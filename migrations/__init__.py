"""Alembic migrations, applied by `holdfast migrate`."""
