"""PostgreSQL and Valkey from Python wheels, for ``make run`` and for the tests."""
