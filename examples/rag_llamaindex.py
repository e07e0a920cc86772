"""Retrieval-augmented generation with LlamaIndex: pip install 'sightline-search[cpu,llamaindex]'."""

import tempfile

from llama_index.core import get_response_synthesizer
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine

from sightline import Document, Index, Searcher
from sightline.integrations.llamaindex import SightlineRerank, SightlineRetriever

TEXTS = {"cats": "Cats purr when content.", "dogs": "Dogs bark at strangers.", "iron": "Iron rusts in wet air."}


class EchoGenerator(MockLLM):  # stands in for a language model, and repeats its prompt: put your LLM in its place
    pass


def main(folder):
    index = Index.build(f"{folder}/index", [Document(id, text) for id, text in TEXTS.items()])
    # The postprocessor reranks what any retriever found; behind a Searcher with a reranker it is not needed.
    engine = RetrieverQueryEngine(
        SightlineRetriever(Searcher(index, reranker=None), similarity_top_k=20),
        get_response_synthesizer(llm=EchoGenerator()),
        node_postprocessors=[SightlineRerank(top_n=3, order="basin")],
    )
    response = engine.query("why does iron rust?")
    print(response)
    print([f"{node.node_id}: {node.score:.3f}" for node in response.source_nodes])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
