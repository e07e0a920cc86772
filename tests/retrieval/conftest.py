"""What tests of the index share."""

import pytest

from sightline.retrieval.index import Index


@pytest.fixture
def build(tmp_path, toy):
    """Build an index that is closed after the test."""
    made = []

    def build(documents, name="index", **options):
        made.append(Index.build(tmp_path / name, documents, **{"encoder": toy, **options}))
        return made[-1]

    yield build
    for index in made:
        index.close()
