"""Retrieval-augmented generation with Haystack 3: pip install 'sightline-search[cpu,haystack]'."""

import tempfile

from haystack import Pipeline, component
from haystack.components.builders import PromptBuilder

from sightline import Document, Index
from sightline.integrations.haystack import SightlineRetriever

TEXTS = {"cats": "Cats purr when content.", "dogs": "Dogs bark at strangers.", "iron": "Iron rusts in wet air."}
TEMPLATE = """{% for d in documents %}[{{ d.id }}] {{ d.content }}
{% endfor %}With nothing but the above, answer: {{ question }}"""


@component
class EchoGenerator:  # stands in for a language model: put your generator in its place
    @component.output_types(reply=str)
    def run(self, prompt: str):
        return {"reply": "I was asked:\n" + prompt}


def main(folder):
    Index.build(f"{folder}/index", [Document(id, text) for id, text in TEXTS.items()], token_states="int8").close()
    pipeline = Pipeline()
    pipeline.add_component("retriever", SightlineRetriever(f"{folder}/index", top_k=3, order="basin"))
    pipeline.add_component("prompt", PromptBuilder(TEMPLATE, required_variables="*"))
    pipeline.add_component("generator", EchoGenerator())
    pipeline.connect("retriever", "prompt.documents").connect("prompt", "generator")
    question = "why does iron rust?"
    said = pipeline.run({"retriever": {"query": question}, "prompt": {"question": question}})
    print(said["generator"]["reply"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
