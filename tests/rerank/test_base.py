"""What every reranker does around its scores, shown on one that is nothing but its scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline import Document, load_reranker
from sightline.errors import InputError, RankingError
from sightline.models.reader import DocumentStates
from sightline.rerank import PointwiseReranker, Reranker, Scored
from sightline.rerank.results import NOTHING


class Count(Reranker):
    """Counts the letter x; knows where it is."""

    name, layout, model, revision = "count:x", "rule", "counter", "1"
    has_evidence = True

    def __init__(self):
        self.seen = []

    def _score(self, lists):
        self.seen.append([len(request.documents) for request in lists])
        return [self._scored(request) for request in lists]

    def _scored(self, request):
        texts = [document.contents for document in request.documents]
        counts = np.array([float(text.count("x")) for text in texts])
        mass = counts / max(1.0, counts.sum())

        def attention(place):
            spans = np.array([(i, i + 1) for i in range(len(texts[place]))]).reshape(-1, 2)
            letters = np.array([float(letter == "x") for letter in texts[place]])
            return spans, letters / max(1.0, counts.sum())

        return Scored(counts, mass, mass[None], ("x",), attention=attention, warnings=("counted",))


texts = st.lists(st.text(alphabet="xy .", max_size=6), max_size=8)


@given(texts, st.one_of(st.none(), st.integers(1, 9)))
def test_the_contract_holds_whatever_the_texts(texts, top_n):
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    reranker = Count()
    ranking = reranker.rank("q", documents, top_n)
    readable = [document for document in documents if document.text.strip()]
    assert reranker.seen == [[len(readable)]]
    best = sorted(readable, key=lambda d: (-d.text.count("x"), d.id))
    rest = sorted((d for d in documents if not d.text.strip()), key=lambda d: (d.id, d.contents))
    assert [item.document for item in ranking] == [*best, *rest][:top_n]
    assert all(documents[item.index] is item.document for item in ranking)
    assert ranking.total == len(documents) and len(ranking) == min(len(documents), top_n or len(documents))
    assert [item.score for item in ranking] == sorted((item.score for item in ranking), reverse=True)
    assert {item.score for item in ranking if not item.document.text.strip()} <= {NOTHING}
    assert ranking.warnings[0] == "counted"


@given(texts, st.permutations(range(8)))
def test_the_order_of_the_input_leaves_no_trace(texts, order):
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    shuffled = [documents[i] for i in order if i < len(documents)]
    one, other = Count().rank("q", documents), Count().rank("q", shuffled)
    assert [(i.document.id, i.score, i.mass) for i in one] == [(i.document.id, i.score, i.mass) for i in other]


def test_a_batch_is_scored_at_once_and_equals_lists_alone():
    lists = [("q", ["x", "", "xx"]), ("r", []), ("s", ["yx"])]
    reranker = Count()
    together = reranker.rank_batch(lists)
    assert reranker.seen == [[2, 0, 1]]
    for (query, documents), ranking in zip(lists, together, strict=True):
        alone = Count().rank(query, documents)
        assert [(i.index, i.score, i.mass) for i in ranking] == [(i.index, i.score, i.mass) for i in alone]
        assert ranking.query == query
    assert Count().rank_batch([]) == []


def test_passages_of_one_document_give_their_best():
    passages = [Document("a", "x"), Document("b", "xx"), Document("a", "xxx"), Document("b", "y")]
    ranking = Count().rank("q", passages, best_per_id=True)
    assert [(item.document.id, item.index) for item in ranking] == [("a", 2), ("b", 1)]


def test_evidence_is_found_for_what_is_returned():
    ranking = Count().rank("q", ["Yes. X xx.", "x", ""], evidence="sentence")
    assert [[(mark.text, mark.mass) for mark in item.evidence] for item in ranking] == [
        [("X xx.", 2 / 3), ("Yes.", 0.0)],
        [("x", 1 / 3)],
        [],
    ]
    assert [item.evidence for item in Count().rank("q", ["x"])] == [None]


def test_a_ranking_tells_what_made_it():
    ranking = Count().rank("q", ["x"])
    assert (ranking.reranker, ranking.layout, ranking.model, ranking.revision) == ("count:x", "rule", "counter", "1")
    assert ranking.seconds > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_n": 0}, "top_n"),
        ({"evidence": "word"}, "evidence"),
        ({"states": [None]}, "takes no token states"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_scored(options, said):
    reranker = Count()
    with pytest.raises(InputError, match=said):
        reranker.rank("q", ["x"], **options)
    assert reranker.seen == []


def test_states_come_for_every_document_or_for_none():
    reranker = load_reranker()
    with pytest.raises(InputError, match="2 documents came with 1 kept states"):
        reranker.rank("q", ["a", "b"], states=[None])
    with pytest.raises(InputError, match="1 lists came with 0"):
        reranker.rank_batch([("q", ["a"])], states=[])


def test_a_score_that_means_nothing_is_refused():
    class Broken(Count):
        def _scored(self, request):
            return Scored(np.array([np.nan] * len(request.documents)))

    with pytest.raises(RankingError):
        Broken().rank("q", ["x", "y"])


def test_kept_states_and_texts_mix_in_one_list(shared_toy):
    from sightline.models.reader import document_states
    from sightline.rerank import LateInteractionReranker

    reranker = LateInteractionReranker("minilm", shared_toy)
    documents = ["cats purr", "dogs bark", "iron rusts"]
    states = document_states(shared_toy, documents)
    plain = reranker.rank("cats", documents)
    for kept in (states, [states[0], None, states[2]], [None] * 3):
        assert [(i.index, i.score) for i in reranker.rank("cats", documents, states=kept)] == [
            (i.index, i.score) for i in plain
        ]
    assert isinstance(states[0], DocumentStates)


def test_two_models_under_one_layout_can_be_told_apart(tmp_path):
    from ..rerank.conftest import save_model

    one, other = (save_model(tmp_path / name) for name in ("one", "other"))
    names = {load_reranker(f"hf:{folder}#icr").rank("q", ["a b", "c d"]).reranker for folder in (one, other)}
    assert names == {f"hf:{one}#icr", f"hf:{other}#icr"}
    reranker = load_reranker(str(one), layout="icr")
    assert (reranker.name, reranker.layout) == (f"{one}#icr", "icr")


def test_a_reranker_is_its_scores_alone():
    with pytest.raises(TypeError, match="_score"):

        class Nothing(Reranker):
            name = layout = model = "nothing"

        Nothing()
    assert issubclass(PointwiseReranker, Reranker)
