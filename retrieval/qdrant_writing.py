"""Write to an index in Qdrant: documents in batches, and vectors for BM25 as the index grows.

A search sees each document as it was before a change or as it is after it. If two processes write the same document at
the same time, one of the two versions remains, complete: the process that wrote the last head sees to the rest. A
writer is made for each change, and all of the change concerns one index. If another index takes its name meanwhile, the
change fails or is lost with the old one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xxhash

from ..documents import Document, Passage
from ..errors import DataError, IndexMismatchError, IndexStoreError
from ..models.encoder import Encoder
from .manifest import Manifest
from .passages import Splitter, passage_batches
from .qdrant_contents import Contents
from .qdrant_engines import Part, Point
from .qdrant_filters import Among, Between, Where, payload_of
from .qdrant_points import (
    MEAN,
    PASSAGES,
    PLACES,
    SHARDS,
    TABLE,
    VERSIONS,
    content_of,
    document_of,
    done_row,
    encoded,
    head_row,
    hex_of,
    row_of,
    rows_of,
    states_rows_of,
    version_of,
    version_row,
    versioned,
)
from .qdrant_words import PassageWords, learned_vectors, passage_words
from .reading import Batch, StoredBatch, read_batch
from .shards import Shard, ShardStream
from .store import as_json, digest_of
from .writing import BATCH_PASSAGES

__all__ = ["OTHERWISE", "QdrantWriter"]

OTHERWISE = "change it with add, update or delete, or build it again with overwrite"
"""What to do if there is an index already."""
_DRIFT = 0.005  # relative change of the mean length after which vectors for BM25 are computed again
_TRIALS = 10  # to write documents that other processes write at the same time
_UNFINISHED = 600.0  # seconds after which passages of a version that is not current are leftovers of a killed writer
_EXACT = 200_000  # passages up to which a build uses the exact mean length


class QdrantWriter:
    """Writes documents with everything that the index keeps of them, for one change or one build.

    Args:
        contents: the documents and counts of the index; see `Contents.fixed`.
    """

    def __init__(self, contents: Contents) -> None:
        self.contents, self._engine = contents, contents.engine
        self._known_mean: float | None = None

    @property
    def _manifest(self) -> Manifest:
        return self.contents.manifest

    @property
    def _path(self) -> str:
        return self.contents.path

    # -- documents ---------------------------------------------------------------------------------------------------

    def splitter(self, encoder: Encoder) -> Splitter | None:
        """Return what cuts documents into passages; None if they are kept whole."""
        cut = self._manifest.passages
        return Splitter(encoder.token_offsets, cut.max_tokens, cut.overlap) if cut.max_tokens else None

    def read(self, encoder: Encoder, batches: Iterable[Batch]) -> Iterator[StoredBatch]:
        """Read batches in this process."""
        for batch in batches:
            yield read_batch(encoder, self._manifest, batch, self._path, self.contents.table())

    def write(
        self,
        encoder: Encoder,
        documents: Iterable[Document],
        existing: Literal["refuse", "resume", "replace"],
        progress: Callable[[int], None] | None,
        read: Callable[[Iterator[Batch]], Iterator[StoredBatch | None]] | None = None,
        shard: Shard | None = None,
    ) -> int:
        """Write a stream of documents.

        ``resume`` skips documents that the index has, and at the end deletes those that were not in the stream.
        ``replace`` skips nothing, so it repairs documents of which a killed writer left a part.

        Args:
            encoder: the encoder of the index.
            documents: the documents, read as a stream.
            existing: what to do with documents that the index has. ``refuse`` raises.
            progress: a function that is called after each batch with the number of documents taken so far.
            read: a function that reads batches, in order. It may take batches in advance, and may write them. If None,
                they are read in this process.
            shard: the shard that the documents of the stream can belong to. If None, all of them.

        Returns:
            The number of documents that were written.

        Raises:
            DataError: if an id is given twice, or is in the index already and ``existing`` is ``refuse``.
        """
        written = taken = put = 0
        passed: set[int] = set()
        ahead: deque[tuple[int, int]] = deque()  # for each batch being read: documents taken so far, and its own

        def waiting() -> Iterator[Batch]:
            nonlocal taken
            for batch in passage_batches(documents, self.splitter(encoder), BATCH_PASSAGES):
                taken += len(batch)
                rows = {row_of(document.id): document.id for document, _ in batch}
                if twice := [id for row, id in rows.items() if row in passed]:
                    raise DataError(f"two documents have the id {twice[0]!r}", path=self._path)
                passed.update(rows)
                if existing != "replace":
                    heads = self.contents.heads([document.id for document, _ in batch], ("id", "digest"))
                    if heads and existing == "refuse":
                        raise DataError(
                            f"document {min(heads)!r} is in the index already; update replaces it (--update)",
                            path=self._path,
                        )
                    there = {id: content_of(head.get("digest")) for id, head in heads.items()}
                    batch = [pair for pair in batch if there.get(pair[0].id) != digest_of(*pair)]
                if batch:
                    ahead.append((taken, len(batch)))
                    yield batch
                elif progress is not None and not ahead:
                    progress(taken)

        for batch in read(waiting()) if read else self.read(encoder, waiting()):
            if batch is not None:
                self.put(batch)
            put, count = ahead.popleft()
            written += count
            if progress is not None:
                progress(put)
        if progress is not None and taken > put:
            progress(taken)
        if existing == "resume":
            heads = ((row, head) for row, head in self.contents.all_heads(PLACES) if row not in passed)
            named = ((str(head.get("id")), head) for _, head in heads)
            self.drop({id: head for id, head in named if shard is None or shard.holds(id)})
        return written

    def compare(self, documents: Iterator[Document]) -> None:
        """Make sure that the index holds these documents and no others.

        Raises:
            IndexStoreError: if it holds others.
        """
        count = 0
        while batch := list(itertools.islice(documents, BATCH_PASSAGES)):
            count += len(batch)
            kept = self.contents.heads([document.id for document in batch])
            for document in batch:
                head = kept.get(document.id)
                stored = dataclasses.replace(document, metadata=json.loads(as_json(document.metadata)))
                if head is None or document_of(head, self._path) != stored:
                    other = f"the index has other documents ({document.id!r} is missing or differs)"
                    raise IndexStoreError(f"{self._path}: {other}; {OTHERWISE}")
        there = self.contents.now().documents
        if count != there:
            raise IndexStoreError(f"{self._path}: the index has {there} documents, not {count}; {OTHERWISE}")

    def drop(self, heads: Mapping[str, Mapping[str, Any]]) -> None:
        """Delete documents.

        Args:
            heads: the payload of the head of each document, with the fields `PLACES`, by id.
        """
        if heads:
            self._engine.delete("passages", Where(must=(Among("document", [hex_of(row_of(id)) for id in heads]),)))
            self._forget_states(heads)

    def digests_of(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the digests of the documents with these ids; see `sightline.retrieval.store.digest_of`."""
        heads = self.contents.heads(ids, ("id", "digest"))
        return {id: content_of(head.get("digest")) for id, head in heads.items()}

    def ids(self) -> Iterator[str]:
        """Return the ids of all documents."""
        return (str(head.get("id")) for _, head in self.contents.all_heads(["id"]))

    def table(self) -> np.ndarray | None:
        """Return the table that the form of the token states has learned; None if it has none yet."""
        return self.contents.table()

    def replace(self, batch: StoredBatch) -> None:
        """Write documents that another index kept, and replace those with the same ids."""
        self.put(batch)

    def remove(self, ids: Sequence[str]) -> None:
        """Delete documents."""
        self.drop(self.contents.heads(ids, PLACES))

    def put(self, batch: StoredBatch) -> None:
        """Write documents with everything that is kept of them. The heads come last, and make the change.

        Raises:
            IndexStoreError: if other processes keep writing the same documents.
        """
        for _ in range(_TRIALS):
            old = self.contents.heads([document.id for document, _ in batch.documents], PLACES)
            states, others, heads = self._points(batch, old)
            parts: tuple[tuple[Part, list[Point]], ...] = (
                ("states", states),
                ("passages", others),
                ("passages", heads),
            )
            for part, points in parts:
                if points:
                    self._engine.upsert(part, points)
            digests = {head.payload["id"]: head.payload["digest"] for head in heads}
            self._forget({id: head for id, head in old.items() if head.get("digest") != digests[id]})
            if self._whole(heads, others, states):
                return
        raise IndexStoreError(
            f"{self._path}: other processes keep writing the same documents, such as "
            f"{batch.documents[0][0].id!r}; write them again"
        )

    def _forget(self, heads: Mapping[str, Mapping[str, Any]]) -> None:
        """Delete old versions of documents, except their heads.

        Args:
            heads: the payload of the old heads, with the fields `PLACES`, by the document's id.
        """
        if rows := [row for row in rows_of(heads) if row != head_row(row)]:
            self._engine.delete("passages", Where(must=(_versions(heads),), ids=tuple(rows)))
        self._forget_states(heads)

    def _forget_states(self, heads: Mapping[str, Mapping[str, Any]]) -> None:
        if self.contents.form is not None and (rows := states_rows_of(heads)):
            self._engine.delete("states", Where(must=(_versions(heads),), ids=tuple(rows)))

    def _whole(self, heads: Sequence[Point], others: Sequence[Point], states: Sequence[Point]) -> bool:
        """Tell whether documents were written completely, and remove what is left of other versions."""
        now = self._engine.retrieve("passages", [head.id for head in heads], ["digest"])
        mine = [head for head in heads if now.get(head.id, {}).get("digest") == head.payload["digest"]]
        if len(mine) < len(heads):  # other processes have written or deleted the rest since
            self._forget({head.payload["id"]: head.payload for head in heads if head not in mine})
        documents = Among("document", [head.payload["document"] for head in mine])
        digests = Among("digest", [head.payload["digest"] for head in mine])
        own = len(mine) + sum(point.payload["digest"] in digests.values for point in others)
        if mine and self._engine.count(Where(must=(documents,))) > own:
            old = Between("written", {"lt": time.time() - _UNFINISHED})  # keep what other processes are writing now
            left = Where(must=(documents, Between("passage", {"gte": 1}), old), must_not=(digests,))
            if rows := [row for row, _ in self._engine.scroll("passages", left, ["passage"])]:
                self._engine.delete("passages", left)
                if states:
                    rows += {row - row % PASSAGES for row in rows}  # the states of the first passage
                    self._engine.delete("states", Where(must_not=(digests,), ids=tuple(rows)))
        return own == len(mine) or self._engine.count(Where(must=(documents, digests))) == own

    def _points(
        self, batch: StoredBatch, old: Mapping[str, Mapping[str, Any]]
    ) -> tuple[list[Point], list[Point], list[Point]]:
        """Return the points of a batch: token states, passages after the first of each document, and heads.

        Args:
            batch: the documents.
            old: the payload of the heads of documents that the index has, by id.
        """
        rows = batch.rows
        if batch.table is not None:
            self._keep(batch.table)
        if batch.states is not None and self.contents.form is not None:
            rows = self.contents.form.encode(batch.states, self._learnt(batch.states) if len(batch.states) else None)
        contents = [passage.contents for _, passages in batch.documents for passage in passages]
        words = self._words(contents)
        states: list[Point] = []
        heads: list[Point] = []
        others: list[Point] = []
        place = 0
        for document, passages in batch.documents:
            if len(passages) >= PASSAGES:
                raise DataError(
                    f"document {document.id!r} has {len(passages)} passages, and a store in Qdrant takes fewer than "
                    f"{PASSAGES:,}; split the document"
                )
            base, digest = row_of(document.id), digest_of(document, passages)
            digest = versioned(digest, self._version(digest, old.get(document.id, {}).get("digest")))
            values = payload_of(json.loads(as_json(document.metadata)))
            self._engine.index_values(values)
            common = {"document": hex_of(base), "digest": digest} | {key: some for key, some in values.items() if some}
            for number, passage in enumerate(passages or [None]):
                payload: dict[str, Any] = common | {"passage": number}
                payload |= {"written": int(time.time())} if number else _head(document, passages)
                vectors: dict[str, Any] = {}
                if passage is None:
                    payload["empty"] = 1
                else:
                    first, stop = int(batch.offsets[place]), int(batch.offsets[place + 1])
                    payload |= {
                        "start": passage.start,
                        "end": passage.end,
                        "truncated": int(batch.truncated[place]),
                        "tokens": stop - first,
                    }
                    if batch.vectors is not None:
                        vectors["dense"] = batch.vectors[place].tolist()
                    if words:
                        fields, vector = words[place]
                        payload |= fields
                        if vector:
                            vectors["words"] = vector
                    if rows is not None:
                        kept = {"digest": digest, "states": encoded(rows[first:stop])}
                        if batch.spans is not None:
                            kept["spans"] = encoded(batch.spans[first:stop])
                        states.append(Point(version_row(base, digest) + number, {}, kept))
                    place += 1
                row = version_row(base, digest) + number if number else base
                (others if number else heads).append(Point(row, vectors, payload))
        return states, others, heads

    def _words(self, contents: Sequence[str]) -> list[tuple[dict[str, Any], dict[int, float]]]:
        """Return fields of the payload and a sparse vector for the words of each passage; [] if none are kept."""
        if not self.contents.keeps_words or not contents:
            return []
        if not self.contents.keeps_bm25:
            vectors = learned_vectors(self.contents.sparse_encoder.encode_documents(contents))
            return [({"length": len(vector)}, vector) for vector in vectors]
        words = passage_words(contents)
        mean = self._mean([one.length for one in words])
        return [
            ({"length": one.length, "words": list(one.counts), "counts": list(one.counts.values())}, one.vector(mean))
            for one in words
        ]

    def _version(self, digest: str, there: Any) -> int:
        """Return the number for a new version of a document.

        Args:
            digest: its digest.
            there: the digest in the payload of the current head; None if there is none.
        """
        if self._manifest.complete:
            # It differs from the current one, and two processes hardly ever choose the same.
            return (version_of(there) + 1 + secrets.randbelow(VERSIONS - 1)) % VERSIONS
        # Processes that share a build give the same document the same points, and another text others.
        return int(digest[:4], 16)

    def _learnt(self, states: np.ndarray) -> np.ndarray | None:
        """Return the table of the form of the token states. If several processes learn one, the first counts."""
        form = self.contents.form
        if form is not None and form.codes is not None and self.contents.table() is None:
            self._keep(form.learn(states))
        return self.contents.table()

    def _keep(self, table: np.ndarray) -> None:
        """Store the table of the form of the token states, unless the index has one."""
        if self.contents.table() is None:
            kept = {"table": encoded(table), "sum": xxhash.xxh3_128_hexdigest(table.tobytes())}
            self._engine.upsert("states", [Point(TABLE, {}, kept)], new_only=True)

    # -- vectors for BM25 --------------------------------------------------------------------------------------------

    def _mean(self, lengths: list[int]) -> float:
        """Return the mean length that vectors for BM25 are computed with: at first, that of the first batch.

        Args:
            lengths: the lengths of the passages of a batch, in case it is the first.
        """
        if self._known_mean is None:
            kept = self._kept_means()
            if not kept:
                mean = sum(lengths) / max(1, len(lengths)) or 1.0
                self._engine.upsert("passages", [Point(MEAN, {}, {"mean": mean})], new_only=True)
                kept = self._kept_means()
            self._known_mean = kept[0]
        return self._known_mean

    def _kept_means(self) -> list[float]:
        """Return the mean length in use, and the one before it if not all vectors have been computed again."""
        kept = self._engine.retrieve("passages", [MEAN], ["mean", "before"]).get(MEAN, {})
        return [float(kept[name]) or 1.0 for name in ("mean", "before") if name in kept]

    def settle(self) -> None:
        """Compute the vectors for BM25 again if the mean length is too far from that in use.

        During a build, only do so if another process has computed them since this one began to write.
        """
        self.contents.follow()
        if self._manifest.complete or self._known_mean not in (None, *self._kept_means()[:1]):
            self._settle(exact=False)

    def _settle(self, *, exact: bool) -> None:
        """Compute the vectors for BM25 again if the mean length is too far from that in use.

        The new mean length is written first, so that a process that has used the old one since then notices. Processes
        that do this at the same time may have counted at different moments. The last of them to end finds that its own
        mean length is out of date, and begins again.

        Args:
            exact: whether the mean length must be that of all passages, unless there are very many.
        """
        if not self.contents.keeps_bm25:
            return
        for _ in range(_TRIALS):
            self.contents.forget()
            now = self.contents.now()
            mean = now.mean or 1.0  # if no passage has words
            drift = 0.0 if exact and now.passages <= _EXACT else _DRIFT
            used = max([self._known_mean or mean, *self._kept_means()], key=lambda used: abs(mean / used - 1))
            if not now.passages or abs(mean / used - 1) <= drift:
                return
            self._engine.upsert("passages", [Point(MEAN, {}, {"mean": mean, "before": used})])
            having = Where(must=(Between("length", {"gte": 1}),))
            points = self._engine.scroll("passages", having, ["words", "counts", "length", "digest"])
            while some := dict(itertools.islice(points, BATCH_PASSAGES)):
                self._weigh(some, mean)
            self._engine.upsert("passages", [Point(MEAN, {}, {"mean": mean})])
            self._known_mean = mean

    def _weigh(self, payloads: Mapping[int, Mapping[str, Any]], mean: float) -> None:
        """Compute the vectors of passages again, except those that other processes change or delete meanwhile."""
        unchanged = Where(must=(Among("digest", sorted({str(own["digest"]) for own in payloads.values()})),))
        vectors = {
            row: PassageWords(dict(zip(own["words"], own["counts"], strict=True)), own["length"]).vector(mean)
            for row, own in payloads.items()
        }
        while vectors:
            try:
                return self._engine.set_vectors("words", vectors, unchanged)
            except IndexStoreError:
                there = self._engine.retrieve("passages", list(vectors), ["digest"])
                if len(there) == len(vectors):
                    raise
                vectors = {row: vectors[row] for row in there}

    # -- builds ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """End a build: compute the vectors for BM25 with the mean length of all passages, and mark it as complete."""
        self._settle(exact=True)
        self._engine.flush()
        now = self.contents.now()
        self.contents.complete({"documents": now.documents, "passages": now.passages})
        self._settle(exact=True)  # what others have written before they could see that the build was ending

    def shards(self) -> tuple[int, int] | None:
        """Return the number of finished shards and of all shards; None if the index is not built in shards."""
        of = self._shards()
        return None if of is None else (len(self._done(of)), of)

    def _shards(self) -> int | None:
        of = self._engine.retrieve("passages", [SHARDS], ["of"]).get(SHARDS, {}).get("of")
        return None if of is None else int(of)

    def _done(self, of: int) -> dict[int, dict[str, Any]]:
        """Return the records of the finished shards, by number."""
        rows = {done_row(Shard(number, of)): number for number in range(of)}
        kept = self._engine.retrieve("passages", list(rows), ["documents", "digest"])
        return {rows[row]: payload for row, payload in kept.items()}

    def begin_shard(self, documents: ShardStream, shard: Shard) -> bool:
        """Tell whether a shard must be written. If it is finished, its documents are compared with its record.

        Raises:
            IndexStoreError: if the index was built without shards, or from other documents.
            IndexMismatchError: if it is built in another number of shards, or the documents have changed.
        """
        if not self._manifest.complete:
            self._engine.upsert("passages", [Point(SHARDS, {}, {"of": shard.of})], new_only=True)
        of = self._shards()
        if of is None:
            raise IndexStoreError(f"{self._path}: there is an index here already, built without shards; {OTHERWISE}")
        if of != shard.of:
            raise IndexMismatchError(
                f"{self._path}: this index is built in {of} shards, not in {shard.of}; continue with {of} shards, or "
                "remove it"
            )
        done = self._done(of).get(shard.number)
        if done is None:
            return True
        for _ in documents:
            pass
        if done != {"documents": documents.count, "digest": documents.digest}:
            if self._manifest.complete:
                raise IndexStoreError(f"{self._path}: the index has other documents in {shard}; {OTHERWISE}")
            self._engine.delete("passages", Where(ids=(done_row(shard),)))
            raise IndexMismatchError(
                f"{self._path}: the documents of {shard} have changed since it was finished "
                f"({done.get('documents')} then, {documents.count} now), so it is marked as unfinished; build it again"
            )
        return False

    def end_shard(self, documents: ShardStream, shard: Shard) -> None:
        """Mark a shard as finished."""
        record = {"documents": documents.count, "digest": documents.digest}
        self._engine.upsert("passages", [Point(done_row(shard), {}, record)])

    def finish_shards(self, of: int) -> None:
        """Finish the index if all shards are finished.

        Raises:
            IndexStoreError: if the index does not have the documents that the shards wrote.
        """
        self.settle()  # if another process has finished the index
        done = self._done(of)
        if len(done) < of:
            return
        self.contents.forget()
        expected = sum(int(record.get("documents", 0)) for record in done.values())
        there = self.contents.now().documents
        if expected != there:
            raise IndexStoreError(
                f"{self._path}: the finished shards have {expected} documents, but the index has {there}, so another "
                "process has changed it; build it again without shards, which reads only what is missing"
            )
        self.finish()


def _versions(heads: Mapping[str, Mapping[str, Any]]) -> Among:
    return Among("digest", sorted({str(head.get("digest")) for head in heads.values()}))


def _head(document: Document, passages: list[Passage] | Any) -> dict[str, Any]:
    """Return the fields of a head's payload that describe its document."""
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": as_json(document.metadata),
        "passages": len(passages),
    }
