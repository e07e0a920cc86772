"""The drop-ins beside what they stand in for: the same calls, the same shapes."""

import asyncio
import copy
import inspect

import pytest
from sentence_transformers import CrossEncoder as TheirCrossEncoder

from sightline.errors import InputError
from sightline.integrations.cross_encoder import CrossEncoder
from sightline.minilm import find_minilm

TEXTS = ["Dogs bark.", "Cats purr when content.", "Iron rusts.", "Lions are cats that roar."]
QUERY = "who purrs"


@pytest.fixture(scope="module")
def random_cross_encoder(tmp_path_factory):
    """The path of a cross-encoder with the default model's tokenizer and few random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cross")
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_minilm()).save_pretrained(folder)
    return str(folder)


# -- sentence-transformers ---------------------------------------------------------------------------------------------


def test_rank_has_the_parameters_of_the_original():
    def parameters(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert parameters(CrossEncoder.rank) == parameters(TheirCrossEncoder.rank)


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 99}, {"return_documents": True, "top_k": 3}], ids=str)
def test_cross_encoder_results_have_the_shape_of_the_originals(random_cross_encoder, options):
    theirs = TheirCrossEncoder(random_cross_encoder, device="cpu").rank(QUERY, TEXTS, **options)
    ours = CrossEncoder().rank(QUERY, TEXTS, **options)
    assert [{name: type(value) for name, value in row.items()} for row in ours] == [
        {name: type(value) for name, value in row.items()} for row in theirs
    ]
    for rows in (ours, theirs):
        assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
        assert all(TEXTS[row["corpus_id"]] == row.get("text", TEXTS[row["corpus_id"]]) for row in rows)
    assert ours[0]["corpus_id"] == 1


def test_cross_encoder_scores_are_the_rerankers(reranker):
    expected = [(item.index, item.score) for item in reranker.rank(QUERY, TEXTS)]
    for encoder in (CrossEncoder(), CrossEncoder("minilm"), CrossEncoder(reranker)):
        rows = encoder.rank(QUERY, TEXTS, batch_size=1, show_progress_bar=True)
        assert [(row["corpus_id"], row["score"]) for row in rows] == expected
    assert CrossEncoder().rank(QUERY, []) == []


@pytest.mark.parametrize(
    "options",
    [{"prompt": "query: "}, {"prompt_name": "query"}, {"activation_fn": abs}, {"device": "cuda"}, {"pool": {}}],
)
def test_what_cannot_be_done_is_refused(options):
    with pytest.raises(InputError, match=f"{next(iter(options))} has no meaning"):
        CrossEncoder().rank(QUERY, TEXTS, **options)


# -- rerankers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rerankers():
    return pytest.importorskip("rerankers", reason="the extra rerankers is not installed")


@pytest.fixture(scope="module")
def ours(rerankers):
    from sightline.integrations.rerankers import Reranker

    return Reranker()


@pytest.fixture(scope="module")
def theirs(rerankers, random_cross_encoder):
    return rerankers.Reranker(random_cross_encoder, model_type="cross-encoder", device="cpu", verbose=0)


def forms(rerankers):
    documents = [
        rerankers.Document(text, doc_id=f"d{i}", metadata={"place": i, "deep": [i]}) for i, text in enumerate(TEXTS)
    ]
    return [
        ((TEXTS,), {}),
        ((TEXTS, ["a", "b", "c", "d"]), {}),
        ((TEXTS,), {"doc_ids": [7, 8, 9, 10]}),
        ((TEXTS,), {"doc_ids": list("abcd"), "metadata": [{"place": i} for i in range(4)]}),
        ((documents,), {}),
        (([rerankers.Document(text) for text in TEXTS],), {}),
    ]


@pytest.mark.parametrize("form", range(6))
def test_rerankers_results_have_the_shape_of_the_originals(rerankers, ours, theirs, form):
    arguments, options = forms(rerankers)[form]
    mine = ours.rank(QUERY, *copy.deepcopy(arguments), **options)
    yours = theirs.rank(QUERY, *copy.deepcopy(arguments), **options)
    assert type(mine) is type(yours)
    assert (mine.query, mine.has_scores, mine.results_count()) == (yours.query, yours.has_scores, 4)

    def shape(results):
        return [(r.rank, type(r.score), type(r.document)) for r in results]

    def told(results):  # without ids and metadata of their own, the original leaves documents without any
        return {r.text: (r.doc_id if form != 5 else None, r.metadata) for r in results}

    assert shape(mine) == shape(yours)
    assert told(mine) == told(yours)
    assert mine.top_k(1)[0].text == "Cats purr when content."
    wanted = mine[0].doc_id
    assert mine.get_score_by_docid(wanted) == mine[0].score == mine.get_result_by_docid(wanted).score


def test_rerankers_scores_are_the_rerankers(ours, reranker):
    results = ours.rank(QUERY, TEXTS)
    assert [(r.doc_id, r.score) for r in results] == [(item.index, item.score) for item in reranker.rank(QUERY, TEXTS)]
    assert [r.text for r in ours.rank(QUERY, "only one")] == ["only one"]
    assert ours.rank(QUERY, []).results == []


def test_rerankers_documents_are_copied(rerankers, ours):
    (documents,), _ = forms(rerankers)[4]
    before = [dict(vars(document), metadata=dict(document.metadata)) for document in documents]
    results = ours.rank(QUERY, documents, doc_ids=[1, 2, 3, 4])
    results[0].metadata["place"] = "changed"
    assert [vars(document) for document in documents] == before
    assert sorted(r.doc_id for r in results) == [1, 2, 3, 4]


def test_rerankers_lists_of_other_lengths_are_refused(rerankers, ours):
    with pytest.raises(InputError, match="4 docs came with 2 doc_ids"):
        ours.rank(QUERY, TEXTS, ["a", "b"])
    with pytest.raises(InputError, match="4 docs came with 1 metadata"):
        ours.rank(QUERY, TEXTS, metadata=[{}])
    with pytest.raises(InputError, match="document 1 is of type 'image'"):
        ours.rank(QUERY, [TEXTS[0], rerankers.Document(document_type="image", base64="")])
    with pytest.raises(InputError, match="a document alone has none"):
        ours.score(QUERY, TEXTS[0])


def test_rerankers_async_leaves_the_loop_free(ours, leaves_loop_free):
    results = leaves_loop_free(lambda: ours.rank_async(QUERY, TEXTS, ["a", "b", "c", "d"]))
    assert results[0].doc_id == "b"
    assert isinstance(asyncio.run(ours.rank_async(QUERY, TEXTS)), type(results))
