"""Small indexes are drawn as they are said to be, and both kinds of scores are measured on the same lists."""

import pytest

from sightline.documents import Document
from sightline.eval.dataset import Dataset
from sightline.recipes.small_indexes import compare, drawn
from sightline.rerank.loading import load_reranker

WORDS = "cats dogs cows owls bees pigs hens rats bats foxes".split()


@pytest.fixture
def dataset():
    documents = [Document(f"{word}{n}", f"{word.title()} sleep in place {n}.") for word in WORDS for n in range(4)]
    queries = {word: f"where do {word} sleep" for word in WORDS}
    return Dataset.in_memory(documents, queries, {word: {f"{word}{n}": 1 for n in range(4)} for word in WORDS})


def test_the_first_query_of_an_index_has_relevant_documents_in_it(dataset):
    for documents, queries in drawn(dataset, 18, 5):
        ids = {document.id for document in documents}
        assert len(ids) == len(documents) == 18 and len(set(queries)) == 3
        assert len(ids & set(dataset.qrels[queries[0]])) == 3
    assert list(drawn(dataset, 5, 2)) == list(drawn(dataset, 5, 2))


def test_words_that_are_rare_in_english_make_what_has_them_more_relevant(dataset):
    found = compare(dataset, load_reranker("minilm"), 5, 3)
    assert found["index"].keys() == found["blended"].keys() == {"log_loss", "relevant", "nDCG@10"}
    assert 0 < found["index"]["relevant"] < found["blended"]["relevant"] < 1
    assert found["blended"]["nDCG@10"] > 0.9 and found["blended"]["log_loss"] < found["index"]["log_loss"]
