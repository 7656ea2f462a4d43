"""All SQL. Functions, not classes; a transaction is the first argument."""
