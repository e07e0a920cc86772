"""Collections by name: libraries' own formats, made here, since there is no network to fetch others."""

import json
import sys
from typing import NamedTuple

import pytest

from sightline.documents import Document
from sightline.errors import DataError, InputError, MissingExtraError
from sightline.eval import catalogues
from sightline.eval.catalogues import corpus_of, from_ir_datasets, from_nano_beir, in_catalogue, plain_documents
from sightline.eval.loading import load_dataset

QUERIES = {"q1": "who purrs", "q2": "who barks"}
QRELS = {"q2": {"d2": 2, "d1": 0}, "q1": {"d1": 1}}


class Titled(NamedTuple):
    doc_id: str
    title: str
    text: str

    def default_text(self):
        return f"{self.title} {self.text}"


class Judged(NamedTuple):
    doc_id: str
    body: str

    def default_text(self):
        return f"said: {self.body}"


@pytest.fixture(scope="module")
def ir(tmp_path_factory):
    """ir_datasets with some collections of ours registered."""
    folder = tmp_path_factory.mktemp("ir_datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IR_DATASETS_HOME", str(folder / "home"))
        ir_datasets = pytest.importorskip("ir_datasets", reason="the extra datasets is not installed")
        from ir_datasets.formats import BaseDocs

        class Docs(BaseDocs):
            def __init__(self, rows):
                self.rows = rows

            def docs_iter(self):
                for row in self.rows:
                    if row is None:
                        raise ConnectionError("no network")
                    yield row

            def docs_count(self):
                return len(self.rows)

            def docs_cls(self):
                return type(self.rows[0])

        (folder / "docs.tsv").write_text("d1\tCats purr.\nd2\tDogs bark.\n")
        (folder / "queries.tsv").write_text("".join(f"{id}\t{text}\n" for id, text in QUERIES.items()))
        rows = [f"{q} 0 {d} {grade}\n" for q, grades in QRELS.items() for d, grade in grades.items()]
        (folder / "qrels.txt").write_text("".join(rows))
        whole = ir_datasets.create_dataset(
            docs_tsv=str(folder / "docs.tsv"),
            queries_tsv=str(folder / "queries.tsv"),
            qrels_trec=str(folder / "qrels.txt"),
        )
        parts = [whole.queries_handler(), whole.qrels_handler()]
        titled = Docs([Titled("d1", "Cats", "They purr."), Titled("d2", "Only a title", " "), Titled("d3", "", "")])
        made = {
            "sightline-zoo/test": whole,
            "sightline-zoo": ir_datasets.Dataset(whole.docs_handler()),
            "sightline-titled/test": ir_datasets.Dataset(titled, *parts),
            "sightline-body": ir_datasets.Dataset(Docs([Judged("d1", "purr"), Judged("d2", "bark")]), *parts),
            "sightline-offline": ir_datasets.Dataset(Docs([Titled("d1", "", "One."), None]), *parts),
        }
        for id, dataset in made.items():
            ir_datasets.registry.register(id, dataset)
        yield ir_datasets


def test_a_collection_of_ir_datasets(ir):
    dataset = load_dataset("ir:sightline-zoo/test")
    assert (dataset.name, dataset.split, str(dataset.folder)) == ("sightline-zoo", "test", "ir:sightline-zoo/test")
    assert dataset.qrels == QRELS and list(dataset.qrels) == list(dataset.queries) == ["q2", "q1"]
    assert dataset.queries == QUERIES
    for _ in range(2):
        assert list(dataset.documents()) == [Document("d1", "Cats purr."), Document("d2", "Dogs bark.")]
    assert [document.id for document in dataset.documents(only={"d2", "d9"})] == ["d2"]
    assert list(load_dataset("ir:sightline-zoo/test", max_queries=1).queries) == ["q2"]


def test_titles_and_other_fields_of_ir_datasets(ir):
    dataset = from_ir_datasets("sightline-titled/test")
    assert list(dataset.documents()) == [
        Document("d1", "They purr.", "Cats"),
        Document("d2", " ", "Only a title"),
        Document("d3", ""),
    ]
    body = from_ir_datasets("sightline-body")
    assert [document.text for document in body.documents()] == ["said: purr", "said: bark"]
    assert (body.name, body.split) == ("sightline-body", "sightline-body")


def test_what_ir_datasets_does_not_have_is_told(ir):
    with pytest.raises(InputError, match="has no 'sightline-nothing'"):
        load_dataset("ir:sightline-nothing")
    with pytest.raises(InputError, match="'sightline-zoo' of ir_datasets has no queries, no qrels"):
        load_dataset("ir:sightline-zoo")
    with pytest.raises(DataError, match=r"ir:sightline-offline: cannot be loaded \(ConnectionError: no network\)"):
        list(load_dataset("ir:sightline-offline").documents())


def test_other_judgements_for_a_named_collection(ir, tmp_path):
    (tmp_path / "deep.txt").write_text("q1 0 d2 3\n")
    assert load_dataset("ir:sightline-zoo/test", qrels=tmp_path / "deep.txt").qrels == {"q2": {}, "q1": {"d2": 3}}
    (tmp_path / "deep.txt").write_text("q9 0 d2 3\n")
    with pytest.raises(DataError, match="judges none of the 2 queries of sightline-zoo, split test"):
        load_dataset("ir:sightline-zoo/test", qrels=tmp_path / "deep.txt")


def test_a_named_collection_goes_through_an_evaluation(ir, tmp_path):
    from sightline.eval.experiment import evaluate_systems

    outcome = evaluate_systems(load_dataset("ir:sightline-zoo/test"), ["bm25"], tmp_path / "out", measures=["RR"])
    assert outcome.summary.systems["bm25"]["RR"] == 1.0
    assert outcome.summary.dataset == "sightline-zoo"


@pytest.fixture
def nano(tmp_path, monkeypatch):
    """A folder in the layout of NanoBEIR's repository."""
    datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "NanoBEIR-en"
    parts = {
        "corpus": [{"_id": "d1", "text": "Cats purr."}, {"_id": "d2", "text": "Dogs bark."}, {"_id": "d3", "text": ""}],
        "queries": [{"_id": id, "text": text} for id, text in QUERIES.items()],
        "qrels": [{"query-id": "q2", "corpus-id": "d2"}, {"query-id": "q1", "corpus-id": "d1"}],
    }
    configs = []
    for part, rows in parts.items():
        (folder / part).mkdir(parents=True)
        files = []
        for split in ("NanoSciFact", "NanoZoo"):
            (folder / part / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            files.append(f"  - split: {split}\n    path: {part}/{split}.jsonl\n")
        configs.append(f"- config_name: {part}\n  data_files:\n" + "".join(files))
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    return folder


def test_a_collection_of_nano_beir(nano, monkeypatch):
    dataset = from_nano_beir("scifact", str(nano))
    assert (dataset.name, dataset.split) == ("NanoSciFact", "test")
    assert (dataset.queries, dataset.qrels) == (QUERIES, {"q2": {"d2": 1}, "q1": {"d1": 1}})
    assert list(dataset.documents()) == [Document("d1", "Cats purr."), Document("d2", "Dogs bark."), Document("d3", "")]
    monkeypatch.setattr(catalogues.from_nano_beir, "__defaults__", (str(nano),))
    assert list(load_dataset("nano:Zoo", max_queries=1).queries) == ["q2"]


def test_what_nano_beir_does_not_have_is_told(nano, tmp_path):
    with pytest.raises(InputError, match="NanoBEIR has no 'nothing'; there are SciFact, Zoo"):
        from_nano_beir("nothing", str(nano))
    with pytest.raises(DataError, match=r"nano:SciFact: cannot be loaded .* needs a network"):
        from_nano_beir("SciFact", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("ir", "ir_datasets", "datasets"), ("nano", "datasets", "datasets"), ("mteb", "mteb", "mteb")],
)
def test_a_missing_library_names_its_extra(name, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"sightline-search\[{extra}\]") as caught:
        load_dataset(f"{name}:anything")
    assert caught.value.extra == extra


def test_a_folder_that_is_called_like_a_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ir:zoo").mkdir()
    with pytest.raises(DataError, match="has no corpus"):
        load_dataset("ir:zoo")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "d", "body": "it"}, "'d' has no text; there are: 'id', 'body'"),
        ({"text": "it"}, "field 'id' must be a string"),
        ({"id": 3, "text": "it"}, "field 'id' must be a string"),
        ({"id": "d", "text": 5}, "'d' has no text"),
    ],
    ids=str,
)
def test_a_document_that_is_none_is_named(row, said):
    with pytest.raises(DataError, match=said):
        list(plain_documents([{"id": "good", "text": "it"}, row]))


def test_a_corpus_needs_no_queries(ir, nano, monkeypatch):
    documents = [Document("d1", "Cats purr."), Document("d2", "Dogs bark.")]
    assert list(corpus_of("ir", "sightline-zoo")) == documents == list(corpus_of("ir", "sightline-zoo/test"))
    with pytest.raises(InputError, match="has no 'sightline-nothing'"):
        corpus_of("ir", "sightline-nothing")
    monkeypatch.setattr(catalogues, "_NANO_BEIR", str(nano))
    assert list(corpus_of("nano", "zoo")) == [*documents, Document("d3", "")]


def test_a_name_in_a_catalogue_is_told_from_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_catalogue("ir:beir/scifact") == ("ir", "beir/scifact")
    assert in_catalogue("beir:scifact") is in_catalogue("ir:") is in_catalogue("data/scifact") is None
    (tmp_path / "ir:zoo").mkdir()
    assert in_catalogue("ir:zoo") is None
