"""A retrieval and a reranking task of MTEB whose data is made here."""

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

CORPUS = {
    "cat": ("Felines", "Cats purr when they are content."),
    "dog": ("Canines", "Dogs bark at strangers."),
    "cow": ("", "Cows eat grass and give milk."),
    "fish": ("", "A fish breathes in water through gills."),
    "title": ("Lions roar at night.", ""),
    "iron": (None, "Iron rusts in wet air."),
    "star": ("", "A star shines because hydrogen fuses in its core."),
}
QUERIES = {"q1": "what do happy cats do", "q2": "who is loud at night", "q3": "why does iron decay", "fish": "gills"}
QRELS = {"q1": {"cat": 2, "title": 1}, "q2": {"title": 1, "dog": 1}, "q3": {"iron": 1}, "fish": {"fish": 1, "cow": 0}}
LISTS = {"q1": ["dog", "cat", "title"], "q2": ["cow", "dog", "star", "title"], "q3": ["star", "iron"], "fish": ["cow"]}


def metadata(name, kind):
    return TaskMetadata(
        dataset={"path": "none", "revision": "1"},
        name=name,
        description="made in a test",
        type=kind,
        category="t2t",
        eval_langs=["eng-Latn"],
        eval_splits=["test"],
        main_score="ndcg_at_10",
    )


class ZooRetrieval(AbsTaskRetrieval):
    metadata = metadata("ZooRetrieval", "Retrieval")
    lists = None

    def load_data(self, num_proc=None, **options):
        if self.data_loaded:
            return
        corpus = [{"id": id, "title": title, "text": text} for id, (title, text) in CORPUS.items()]
        queries = [{"id": id, "text": text} for id, text in QUERIES.items()]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(corpus),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": {id: dict(grades) for id, grades in QRELS.items()},
                    "top_ranked": self.lists,
                }
            }
        }
        self.data_loaded = True


class ZooReranking(ZooRetrieval):
    metadata = metadata("ZooReranking", "Reranking")
    lists = LISTS
