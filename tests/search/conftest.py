"""What the tests of searches share."""

import contextlib

import pytest


@pytest.fixture
def statements():
    """The SQL statements that an index makes within a block; not those that SQLite's own modules make of them."""

    @contextlib.contextmanager
    def watched(index):
        made = []
        connection = index._files.store.connection
        connection.set_trace_callback(lambda sql: None if sql.startswith("--") else made.append(sql))
        try:
            yield made
        finally:
            connection.set_trace_callback(None)

    return watched
