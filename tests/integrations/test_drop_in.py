"""The drop-ins beside what they stand in for: the same calls, the same shapes."""

import asyncio
import copy
import inspect

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as TheirCrossEncoder

from sightline import load_reranker
from sightline.errors import InputError
from sightline.integrations.cross_encoder import CrossEncoder
from sightline.integrations.snippets import drop_in
from sightline.models.minilm import find_minilm
from sightline.names import LAYOUTS

TEXTS = ["Dogs bark.", "Cats purr when content.", "Iron rusts.", "Lions are cats that roar."]
QUERY = "who purrs"


@pytest.fixture(scope="module")
def random_cross_encoder(tmp_path_factory):
    """The path of a cross-encoder with the default model's tokenizer and few random weights."""
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
    ranking = reranker.rank(QUERY, TEXTS)
    for encoder in (CrossEncoder(), CrossEncoder("minilm"), CrossEncoder(reranker)):
        rows = encoder.rank(QUERY, TEXTS, batch_size=1, show_progress_bar=True)
        assert [(row["corpus_id"], row["score"]) for row in rows] == [(i.index, i.relevance) for i in ranking]
    raw = CrossEncoder().rank(QUERY, TEXTS, activation_fn=torch.nn.Identity())
    assert [(row["corpus_id"], row["score"]) for row in raw] == [(item.index, item.score) for item in ranking]
    assert CrossEncoder().rank(QUERY, []) == []


def test_rank_gives_the_raw_score_where_there_is_no_relevance():
    ranking = load_reranker("minilm-mass").rank(QUERY, TEXTS)
    rows = CrossEncoder("minilm-mass").rank(QUERY, TEXTS)
    assert [(row["corpus_id"], row["score"]) for row in rows] == [(item.index, item.score) for item in ranking]
    with pytest.raises(InputError, match="minilm-mass has no relevance"):
        CrossEncoder("minilm-mass").rank(QUERY, TEXTS, activation_fn=torch.nn.Sigmoid())
    with pytest.raises(InputError, match="minilm-mass has no relevance"):
        CrossEncoder("minilm-mass", activation_fn=torch.nn.Sigmoid())


# -- predict


PAIRS = [(QUERY, text) for text in TEXTS] + [("what rusts", TEXTS[2]), ("what rusts", TEXTS[0])]


def test_predict_has_the_parameters_of_the_original():
    ours, theirs = (
        [(p.name, p.kind, p.default) for p in inspect.signature(kind.predict).parameters.values()]
        for kind in (CrossEncoder, TheirCrossEncoder)
    )
    assert ours == [parameter for parameter in theirs if parameter[0] != "kwargs"]


def shape(answer):
    if isinstance(answer, list):
        return [shape(part) for part in answer]
    return type(answer), getattr(answer, "dtype", None), tuple(answer.shape)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"convert_to_numpy": True, "convert_to_tensor": True},
        {"batch_size": 2},
        {"show_progress_bar": True},
        {"activation_fn": torch.nn.Identity()},
        {"activation_fct": torch.nn.Sigmoid()},
        {"apply_softmax": True, "num_workers": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "inputs",
    [PAIRS, [list(pair) for pair in PAIRS], tuple(PAIRS), np.array(PAIRS), PAIRS[0], list(PAIRS[0]), PAIRS[:1]],
    ids=["pairs", "lists", "tuple", "array", "pair", "list", "one"],
)
def test_predictions_have_the_shape_of_the_originals(random_cross_encoder, inputs, options):
    theirs = TheirCrossEncoder(random_cross_encoder, device="cpu").predict(inputs, **options)
    assert shape(CrossEncoder().predict(inputs, **options)) == shape(theirs)


def test_predictions_are_the_rerankers_scores_of_each_pair_alone(reranker):
    encoder = CrossEncoder()
    alone = [reranker.rank(query, [text])[0] for query, text in PAIRS]
    assert encoder.predict(PAIRS).tolist() == pytest.approx([item.relevance for item in alone], rel=1e-6)
    raw = encoder.predict(PAIRS, activation_fn=torch.nn.Identity())
    assert raw.tolist() == pytest.approx([item.score for item in alone], rel=1e-6)
    assert encoder.predict(sentences=PAIRS).tolist() == encoder.predict(PAIRS).tolist()
    assert CrossEncoder(activation_fn=torch.nn.Identity()).predict(PAIRS).tolist() == raw.tolist()
    assert CrossEncoder(default_activation_function=torch.nn.Identity()).predict(PAIRS).tolist() == raw.tolist()
    assert len(encoder.predict([])) == 0 and encoder.predict([], convert_to_tensor=True).shape == (0,)


@pytest.mark.parametrize("activation", [None, torch.nn.Identity(), torch.nn.Sigmoid()], ids=str)
def test_rank_and_predict_agree(activation):
    encoder = CrossEncoder()
    rows = encoder.rank(QUERY, TEXTS, activation_fn=activation)
    scores = encoder.predict([(QUERY, text) for text in TEXTS], activation_fn=activation)
    assert [row["score"] for row in rows] == pytest.approx([scores[row["corpus_id"]] for row in rows], rel=1e-6)
    assert [row["corpus_id"] for row in rows] == (-scores).argsort().tolist()


def test_a_program_for_the_original_runs_with_another_import_and_name():
    model = CrossEncoder("minilm")
    query = "how many people live in Oslo"
    passages = [
        "Oslo has about 700,000 inhabitants.",
        "Oslo's harbour is visited by many ships each year.",
        "In winter, many people of the city go skiing.",
    ]
    scores = model.predict([(query, passage) for passage in passages])
    assert scores.argmax() == 0 and isinstance(scores, np.ndarray) and scores.dtype == np.float32
    said = [
        f"- #{rank['corpus_id']} ({rank['score']:.2f}): {rank['text']}"
        for rank in model.rank(query, passages, return_documents=True)
    ]
    assert said[0] == f"- #0 ({scores[0]:.2f}): {passages[0]}" and len(said) == 3


def test_a_batch_size_changes_no_prediction():
    whole = CrossEncoder().predict(PAIRS)
    for size in (1, 2, 5, 100):
        assert CrossEncoder().predict(PAIRS, batch_size=size).tolist() == pytest.approx(whole.tolist(), rel=1e-5)


def test_predictions_tell_an_answer_from_another_text():
    query = "why does iron rust"
    pairs = [(query, "Iron rusts in wet air."), (query, "Dogs bark at strangers."), (query, "")]
    right, wrong, nothing = CrossEncoder().predict(pairs)
    assert right > wrong + 0.05 and wrong < 0.1 and nothing == 0


def test_a_progress_bar_leaves_stdout_alone(capfd):
    CrossEncoder().predict(PAIRS, show_progress_bar=True)
    assert capfd.readouterr().out == ""


def test_predict_without_relevance_gives_the_raw_score():
    expected = load_reranker("minilm-log-mass").predict(PAIRS, raw_scores=True)
    assert CrossEncoder("minilm-log-mass").predict(PAIRS).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    with pytest.raises(InputError, match="minilm-log-mass has no relevance"):
        CrossEncoder("minilm-log-mass").predict(PAIRS, activation_fn=torch.nn.Sigmoid())


@pytest.mark.parametrize("options", [{}, {"activation_fn": torch.nn.Identity()}], ids=str)
def test_predict_is_refused_where_scores_are_relative_to_their_list(options):
    with pytest.raises(InputError, match="minilm-mass cannot score pairs: its scores are relative to their list"):
        CrossEncoder("minilm-mass").predict(PAIRS, **options)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("one text", "inputs must be pairs"),
        (None, "inputs must be pairs"),
        ([("q", "a"), "text"], "input 1 must be a pair"),
        ([("q", "a", "b")], "input 0 must be a pair"),
        (("q", "a", "b"), "input 0 must be a pair"),
        ([5], "input 0 must be a pair"),
        ([(5, "a")], "input 0 must be a pair of a query and a text"),
        ([("q", 5)], "text"),
    ],
    ids=str,
)
def test_what_is_no_pair_is_refused(inputs, said):
    with pytest.raises(InputError, match=said):
        CrossEncoder().predict(inputs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "query: "}, "prompt has no meaning"),
        ({"device": "cuda"}, "device has no meaning"),
        ({"activation_fn": torch.nn.ReLU()}, "activation_fn is torch.nn.Sigmoid"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
    ids=str,
)
def test_what_predict_cannot_do_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        CrossEncoder().predict(PAIRS, **options)


@pytest.mark.parametrize(
    "options",
    [{"prompt": "query: "}, {"prompt_name": "query"}, {"activation_fn": abs}, {"device": "cuda"}, {"pool": {}}],
)
def test_what_cannot_be_done_is_refused(options):
    with pytest.raises(InputError, match=f"{next(iter(options))} (has no meaning|is torch.nn)"):
        CrossEncoder().rank(QUERY, TEXTS, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu"},
        {"max_length": 512, "device": "cpu"},
        {"num_labels": 1, "trust_remote_code": False, "token": None, "backend": "torch"},
        {"model_kwargs": {"torch_dtype": torch.float32}, "tokenizer_args": {}},
    ],
    ids=str,
)
def test_usual_arguments_of_the_constructor_are_taken(options):
    encoder = CrossEncoder("minilm", **options)
    assert encoder.rank(QUERY, TEXTS)[0]["corpus_id"] == 1
    words = ["the " * 400 + "cats", "the " * 400 + "dogs"]
    scores = {row["score"] for row in encoder.rank("cats", words)}
    assert len(scores) == (2 if "max_length" in options else 1)  # the end is read, or it is not


def test_every_argument_of_the_original_is_taken_or_refused_by_name():
    parameters = inspect.signature(TheirCrossEncoder.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    CrossEncoder(**{**defaults, "model_name_or_path": "minilm"})
    for name in set(defaults) - {"model_name_or_path"}:
        with pytest.raises(InputError, match=f"{name}|the device|max_block_tokens"):
            CrossEncoder("minilm", **{name: {"strange": 1} if name == "model_kwargs" else "strange"})
    with pytest.raises(InputError, match="no argument 'bogus'"):
        CrossEncoder(bogus=1)


@pytest.mark.parametrize("name", ["cross-encoder/ms-marco-MiniLM-L-6-v2", "BAAI/bge-reranker-base", "cross-encoder"])
def test_the_name_of_another_model_is_refused_with_those_that_work(name):
    with pytest.raises(
        InputError, match="the model's name changes with the import: use .* 'minilm' or 'sightline-mini'"
    ):
        CrossEncoder(name)


def test_former_arguments_of_rank_are_taken_as_there():
    former = {"convert_to_numpy": True, "convert_to_tensor": False, "apply_softmax": True, "num_workers": 2}
    assert CrossEncoder().rank(QUERY, TEXTS, **former) == CrossEncoder().rank(QUERY, TEXTS)
    with pytest.raises(InputError, match="activation_fn is torch.nn.Sigmoid"):
        CrossEncoder().rank(QUERY, TEXTS, activation_fct=abs)


@pytest.mark.parametrize("documents", ["one text", {"a": "text"}, None, 5], ids=str)
def test_what_is_no_list_of_documents_is_refused(documents):
    with pytest.raises(InputError, match="documents must be a list of texts, not a single"):
        CrossEncoder().rank(QUERY, documents)


@pytest.mark.parametrize("name", [5, None, object()], ids=lambda name: type(name).__name__)
def test_what_is_neither_a_name_nor_a_reranker_is_refused_at_once(name):
    with pytest.raises(InputError, match="reranker must be a name for load_reranker, or an object"):
        CrossEncoder(name)


def test_a_path_names_a_reranker(tmp_path):
    layout = tmp_path / "mine.yaml"
    layout.write_text((LAYOUTS / "minilm.yaml").read_text())
    assert CrossEncoder(layout).rank(QUERY, TEXTS) == CrossEncoder(str(layout)).rank(QUERY, TEXTS)


def test_texts_that_are_missing_come_last_and_others_are_cleaned():
    texts = [None, "Cats\x00 purr.", "", "Scan \ud83d"]
    rows = CrossEncoder().rank(QUERY, texts, return_documents=True)
    assert [row["text"] for row in rows] == ["Cats\x00 purr.", "Scan \ud83d", None, ""]


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

    def documents_of(results):  # without ids and metadata of their own, the original leaves documents without any
        return {r.text: (r.doc_id if form != 5 else None, r.metadata) for r in results}

    assert shape(mine) == shape(yours)
    assert documents_of(mine) == documents_of(yours)
    assert mine.top_k(1)[0].text == "Cats purr when content."
    best_id = mine[0].doc_id
    assert mine.get_score_by_docid(best_id) == mine[0].score == mine.get_result_by_docid(best_id).score


def test_rerankers_scores_are_the_rerankers(ours, reranker):
    results = ours.rank(QUERY, TEXTS)
    expected = reranker.rank(QUERY, TEXTS)
    assert [(r.doc_id, r.score) for r in results] == [(item.index, item.relevance) for item in expected]
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


def test_rerankers_score_a_document_alone(ours):
    scores = {r.text: r.score for r in ours.rank(QUERY, TEXTS)}
    assert [ours.score(QUERY, text) for text in TEXTS] == pytest.approx([scores[text] for text in TEXTS], rel=1e-6)
    assert type(ours.score(QUERY, TEXTS[0])) is float and ours.score(QUERY, "") == 0
    raw = type(ours)("minilm-log-mass")
    assert raw.score(QUERY, TEXTS[1]) == pytest.approx(raw.rank(QUERY, TEXTS)[0].score, rel=1e-6)
    with pytest.raises(InputError, match="minilm-mass cannot score pairs"):
        type(ours)("minilm-mass").score(QUERY, TEXTS[0])


def test_rerankers_cut_by_min_score(ours):
    scores = [r.score for r in ours.rank(QUERY, TEXTS)]
    for min_score, left in ((0.0, 4), (scores[1], 2), (1.0, 0)):
        results = type(ours)(min_score=min_score).rank(QUERY, TEXTS)
        assert [r.score for r in results] == scores[:left] and results.results_count() == left
    with pytest.raises(InputError, match="minilm-mass has none"):
        type(ours)("minilm-mass", min_score=0.5)
    with pytest.raises(InputError, match="min_score must be a number from 0 to 1"):
        type(ours)(min_score=5)


@pytest.mark.parametrize(
    "options",
    [{"verbose": 0}, {"model_type": "cross-encoder", "lang": "en", "batch_size": 4, "api_key": None},
     {"device": "cpu", "dtype": "fp32"}, {"dtype": torch.float32}],
)  # fmt: skip
def test_usual_arguments_of_rerankers_are_taken(ours, options):
    reranker = type(ours)("minilm", **options)
    assert [r.doc_id for r in reranker.rank(QUERY, TEXTS)] == [r.doc_id for r in ours.rank(QUERY, TEXTS)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_key": "x"}, "api_key has no meaning here"),
        ({"lang": "fr"}, "lang='fr'"),
        ({"window_size": 3}, "window_size has no"),
    ],
)
def test_arguments_of_rerankers_that_cannot_be_followed_are_refused(ours, options, said):
    with pytest.raises(InputError, match=said):
        type(ours)(**options)


@pytest.mark.parametrize("ids", [[1, None], [None, 0, None], ["0", None, 2, None], [None, None, 0, 1]], ids=str)
def test_rerankers_ids_are_never_given_twice(rerankers, ours, ids):
    documents = [rerankers.Document(f"text {place}", doc_id=id) for place, id in enumerate(ids)]
    for results in (ours.rank(QUERY, documents), ours.rank(QUERY, [d.text for d in documents], doc_ids=ids)):
        ids_by_text = {r.text: r.doc_id for r in results}
        assert len(set(map(str, ids_by_text.values()))) == len(ids)
        assert all(id in (None, ids_by_text[f"text {place}"]) for place, id in enumerate(ids))


def test_rerankers_take_what_is_missing_and_other_forms(ours):
    results = ours.rank(QUERY, ["Dogs bark.", "Cats purr."], metadata=[None, {"a": 1}])
    assert [r.metadata for r in results] == [{"a": 1}, {}]
    results = ours.rank(QUERY, [{"text": "Dogs bark.", "id": 5}, ("x", "Cats purr."), None, ""])
    assert [r.doc_id for r in results] == ["x", 5, 2, 3]
    with pytest.raises(InputError, match="document 0 has no 'text'"):
        ours.rank(QUERY, [{"body": "a"}])


def test_rerankers_metadata_that_is_no_mapping_is_refused(ours):
    with pytest.raises(InputError, match="metadata of document 1 must be a mapping, not 'x'"):
        ours.rank(QUERY, TEXTS[:2], metadata=[{}, "x"], batch_size=8)


def test_rerankers_async_leaves_the_loop_free(ours, leaves_loop_free):
    results = leaves_loop_free(lambda: ours.rank_async(QUERY, TEXTS, ["a", "b", "c", "d"]))
    assert results[0].doc_id == "b"
    assert isinstance(asyncio.run(ours.rank_async(QUERY, TEXTS)), type(results))


@pytest.mark.parametrize("name", ["hf:a/b", "cross-encoder:a/b", "late-interaction:a/b"])
def test_every_model_of_the_hub_takes_a_revision(name, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "sightline.integrations.snippets.load_reranker", lambda name, **options: loaded.append((name, options))
    )
    drop_in(name, revision="main")
    assert loaded == [(name, {"revision": "main"})]
    with pytest.raises(InputError, match="revision is for models of the hub"):
        drop_in("minilm", revision="main")


def test_adapters_of_a_process_share_what_they_read(tmp_path):
    """A reranker that was loaded elsewhere keeps what it was told to, and nothing if it was not."""
    from sightline import load_reranker
    from sightline.integrations.snippets import drop_in, keeping

    one, other = keeping("minilm", 8, tmp_path), keeping("minilm-maxsim", 8, str(tmp_path))
    assert one.cache is other.cache is not None and one.cache is not keeping("minilm", 8, None).cache
    one.rank("who purrs", ["Cats purr.", "Dogs bark."])
    before = one.cache.hits
    other.rank("who barks", ["Dogs bark.", "Cats purr."])
    assert one.cache.hits == before + 2 and len(list(tmp_path.glob("*/*.read"))) == 2
    loaded = load_reranker("minilm")
    assert keeping(loaded, 8, None) is loaded and loaded.cache is None
    assert drop_in("minilm", 8).cache is keeping("minilm", 8, None).cache
    assert keeping("minilm", 0, None).cache is None and drop_in("minilm").cache is None
