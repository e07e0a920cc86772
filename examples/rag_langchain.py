"""Retrieval-augmented generation with LangChain: pip install 'sightline-search[cpu,langchain]'."""

import tempfile

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from sightline import Document, Index, Searcher
from sightline.integrations.langchain import SightlineRetriever

TEXTS = {"cats": "Cats purr when content.", "dogs": "Dogs bark at strangers.", "iron": "Iron rusts in wet air."}


class EchoGenerator:  # stands in for a language model: put your ChatModel in its place
    def __call__(self, prompt):
        return "I was asked:\n" + prompt.to_string()


def main(folder):
    index = Index.build(f"{folder}/index", [Document(id, text) for id, text in TEXTS.items()], token_states="int8")
    retriever = SightlineRetriever(searcher=Searcher(index), k=3, order="basin")
    prompt = PromptTemplate.from_template("{context}\n\nWith nothing but the above, answer: {question}")
    context = retriever | (lambda documents: "\n".join(f"[{d.id}] {d.page_content}" for d in documents))
    generator = RunnableLambda(EchoGenerator())
    chain = {"context": context, "question": RunnablePassthrough()} | prompt | generator | StrOutputParser()
    print(chain.invoke("why does iron rust?"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
