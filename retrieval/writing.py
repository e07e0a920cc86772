"""The one writer of an index: batches of documents, each a commit, and what is brought up to date after them.

A batch is appended to the raw files first and then committed in the database; what a killed writer left beyond the last
commit is never read, and the next writer overwrites it. The FAISS structure, an engine beside the store and the
checksums follow the commits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from ..documents import Document, Passage
from ..errors import DataError, IndexLockedError, IndexStoreError, InputError, SightlineError
from ..files import digest, replacing
from ..models.encoder import Encoder
from ..models.reader import DecoderReader
from .engines import flat_engine
from .faiss_index import build_structure, faiss_device, import_faiss
from .files import PATIENCE, WRITER_LOCK, AppendFile, committing, locked, storage_errors
from .manifest import FaissRecord, Manifest, StoreRecord
from .open_files import OpenFiles
from .passages import Splitter, passage_batches
from .planning import OTHERWISE
from .reading import Batch, StoredBatch, read_batch
from .store import Segment, as_json, digest_of

__all__ = ["BATCH_PASSAGES", "DECODER_PASSAGES", "Writer"]

logger = logging.getLogger(__name__)

BATCH_PASSAGES = 512  # commits are this far apart; token states of a batch take about 200 MB while it is written
DECODER_PASSAGES = 64  # the same where a decoder reads each passage, which takes a hundred times as long


class Writer:
    """Changes an index that is open.

    Args:
        files: the open files of the index.
    """

    def __init__(self, files: OpenFiles) -> None:
        self._files = files
        self._path = files.path

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer, from before the first commit until the checksums are written.

        Raises:
            IndexLockedError: if another process is writing.
        """
        with locked(self._path / WRITER_LOCK, wait=PATIENCE):
            self._files.now()  # of the index that is there now: from here on, no other takes its place
            try:
                yield
            except BaseException:
                with contextlib.suppress(SightlineError), self._storing():
                    self._sign(Manifest.load(self._path))
                raise

    def _storing(self) -> contextlib.AbstractContextManager[None]:
        """Put around writes alone: an error of the stream of documents is no error of the index."""
        return storage_errors(self._path, "committed batches are kept")

    # -- documents ---------------------------------------------------------------------------------------------------

    def write(
        self,
        encoder: Encoder,
        documents: Iterable[Document],
        existing: Literal["refuse", "resume", "replace"],
        progress: Callable[[int], None] | None,
        decoder: DecoderReader | None = None,
        reading: Callable[[Iterator[Batch]], Iterator[StoredBatch | None]] | None = None,
    ) -> int:
        """Write documents, a batch and a commit at a time, as the one writer.

        Args:
            encoder: the encoder of the index.
            documents: read as a stream.
            existing: what becomes of documents whose ids are there. ``refuse`` raises, ``replace`` replaces those that
                differ, in their fields or their passages, and ``resume`` also deletes what was not in the stream.
            progress: called after each batch with the number of documents taken so far.
            decoder: reads the decoder states that the index keeps; None if it keeps none.
            reading: reads batches, in order; it may take some ahead. None to read each here, by ``encoder``.

        Returns:
            How many documents were written.

        Raises:
            DataError: if an id is there twice, or is there already and ``existing`` is ``refuse``.
        """
        store, passages = self._files.store, self._files.settings.passages
        written = taken = committed = 0
        splitter = None
        if passages.max_tokens:
            splitter = Splitter(encoder.token_offsets, passages.max_tokens, passages.overlap)
        before = store.last_number()
        passed = bytearray(before + 1)  # by document number: it was in the stream
        size = BATCH_PASSAGES if decoder is None else min(BATCH_PASSAGES, DECODER_PASSAGES)
        ahead: deque[tuple[int, list[str]]] = deque()  # of each batch that is being read: taken so far, and replaced

        def waiting() -> Iterator[Batch]:
            nonlocal taken
            for batch in passage_batches(documents, splitter, size):
                taken += len(batch)
                present = store.existing(document.id for document, _ in batch)
                self._refuse_twice(id for id, number in present.items() if number > before or passed[number])
                if present and existing == "refuse":
                    raise DataError(
                        f"document {min(present)!r} is in the index already; update replaces it (--update)",
                        path=self._path,
                    )
                if present:
                    for number in present.values():
                        passed[number] = True
                    there = self.digests_of(list(present))
                    batch = [pair for pair in batch if there.get(pair[0].id) != digest_of(*pair)]
                if batch:
                    ahead.append((taken, sorted(present.keys() & {document.id for document, _ in batch})))
                    yield batch
                elif progress is not None and not ahead:
                    progress(taken)

        def read_here(batches: Iterator[Batch]) -> Iterator[StoredBatch]:
            for batch in batches:
                yield read_batch(encoder, self._files.settings, batch, self._path, self._files.now().table)

        for batch in (reading or read_here)(waiting()):
            assert batch is not None
            committed, replaced = ahead.popleft()
            self._commit(decoder, batch, replaced)
            written += len(batch.documents)
            if progress is not None:
                progress(committed)
        if progress is not None and taken > committed:
            progress(taken)
        if existing == "resume":
            gone = [id for number, id in store.ids().items() if number <= before and not passed[number]]
            for start in range(0, len(gone), BATCH_PASSAGES):
                self._drop(gone[start : start + BATCH_PASSAGES])
        return written

    def _refuse_twice(self, ids: Iterable[str]) -> None:
        if (twice := next(iter(ids), None)) is not None:
            raise DataError(f"two documents have the id {twice!r}", path=self._path)

    def compare(self, documents: Iterator[Document]) -> None:
        """Make sure that the index holds these documents and no others.

        Raises:
            IndexStoreError: if it holds others.
        """
        count = 0
        while batch := list(itertools.islice(documents, BATCH_PASSAGES)):
            count += len(batch)
            stored = self._files.store.find([document.id for document in batch])
            for document in batch:
                if not _same(stored.get(document.id), document):
                    differs = f"{document.id!r} is missing or differs"
                    raise IndexStoreError(f"{self._path}: the index has other documents ({differs}); {OTHERWISE}")
        total = self._files.store.counts()["documents"]
        if count != total:
            raise IndexStoreError(f"{self._path}: the index has {total} documents, not {count}; {OTHERWISE}")

    def digests_of(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the digests of the documents with these ids; see `sightline.retrieval.store.digest_of`."""
        documents = self._files.store.find(ids)
        passages: dict[str, list[Passage]] = {id: [] for id in documents}
        for stored in self._files.store.passages_of(list(documents)):
            passages[stored.passage.document.id].append(stored.passage)
        return {id: digest_of(document, passages[id]) for id, document in documents.items()}

    def ids(self) -> Iterable[str]:
        """Return the ids of all documents."""
        return self._files.store.ids().values()

    def table(self) -> np.ndarray | None:
        """Return the table that the form of the token states has learned; None if it has none yet."""
        return self._files.now().table

    def replace(self, batch: StoredBatch) -> None:
        """Write documents that another index kept, and replace those with the same ids, as the one writer."""
        self._commit(None, batch, sorted(self._files.store.existing(document.id for document, _ in batch.documents)))

    def remove(self, ids: Sequence[str]) -> None:
        """Delete documents, as the one writer."""
        self._drop(ids)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete documents, all or none, as the one writer.

        Raises:
            InputError: if an id is not in the index.
        """
        present = self._files.store.existing(ids)
        missing = [id for id in ids if id not in present]
        if missing:
            raise InputError(f"{self._path}: no document {missing[0]!r} ({len(missing)} of {len(ids)} ids not found)")
        self._drop(ids)

    def _drop(self, ids: Sequence[str]) -> None:
        with self._storing(), committing(self._path), self._files.store.transaction():
            self._forget(ids)

    def _forget(self, ids: Sequence[str]) -> None:
        gone = self._files.store.delete(ids)
        self._files.words.delete([p.row for p in gone], [p.passage.contents for p in gone])

    def _commit(self, decoder: DecoderReader | None, batch: StoredBatch, replaced: Sequence[str]) -> None:
        """Append one batch to the raw files, then make it exist."""
        store = self._files.store
        segments: list[Segment] = []
        if batch.rows is not None or batch.states is not None:
            segments += self._append_states(batch, store.token_rows())
            if self._files.now().manifest.token_states.spans and batch.spans is not None:
                segments.append(self._append(self._files.spans, batch.spans, store.token_rows()))
        if batch.vectors is not None and self._files.vectors is not None:
            segments.append(self._append(self._files.vectors, batch.vectors, store.rows()))
        decoder_tokens: list[int] = []
        if decoder is not None:
            blocks = [passage.as_document() for _, passages in batch.documents for passage in passages]
            for appended, counts in self._append_decoder_states(decoder, blocks):
                segments.append(appended)
                decoder_tokens += counts
        contents = [passage.contents for _, passages in batch.documents for passage in passages]
        with self._storing(), committing(self._path), store.transaction():
            # A batch that was read ahead may hold an id of one that was not committed yet then.
            there = store.existing(document.id for document, _ in batch.documents)
            self._refuse_twice(there.keys() - set(replaced))
            if replaced:
                self._forget(replaced)
            added = store.insert(
                [d for d, _ in batch.documents],
                [p for _, p in batch.documents],
                np.diff(batch.offsets),
                batch.truncated,
                decoder_tokens,
            )
            self._files.words.add(added, contents)
            store.record(segments)
        self._files.words.committed(added, contents)

    def _append_states(self, batch: StoredBatch, committed: int) -> Iterator[Segment]:
        """Append token states, and before the first of them the table that their form learns from them."""
        files, rows = self._files, batch.rows
        assert files.states is not None and files.form is not None
        if batch.states is not None:
            if not len(batch.states):
                return
            if (table := files.now().table) is None:
                assert files.table is not None
                table = files.form.learn(batch.states)
                yield self._append(files.table, table, 0)
            rows = files.form.encode(batch.states, table)
        if rows is not None and len(rows):
            if batch.table is not None and files.now().table is None:
                assert files.table is not None
                yield self._append(files.table, batch.table, 0)
            yield self._append(files.states, rows, committed)

    def _append_decoder_states(
        self, decoder: DecoderReader, blocks: Sequence[Document]
    ) -> Iterator[tuple[Segment, list[int]]]:
        """Append what a decoder reads of passages, some at a time; gives the segment and each passage's tokens."""
        file, form = self._files.decoder, self._files.settings.decoder_states
        assert file is not None and form is not None
        committed = self._files.store.decoder_tokens()
        for group in decoder.read_stored(blocks, form):
            rows = np.concatenate(group).reshape(-1, form.token_bytes)
            yield self._append(file, rows, committed), [len(data) // form.token_bytes for data in group]
            committed += len(rows)

    def _append(self, file: AppendFile, rows: np.ndarray, committed: int) -> Segment:
        size = file.dtype.itemsize
        with self._storing():
            written = file.append(rows, committed)
        return Segment(file.path.name, committed * size, (committed + len(rows)) * size, written)

    # -- after the commits -------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Bring the FAISS structure and the words up to date, and sign what was committed, as the one writer."""
        with self._storing():
            manifest = Manifest.load(self._path)
            if self._files.vectors is not None:
                manifest = dataclasses.replace(manifest, faiss=self._grown(manifest.faiss))
            self._files.words.catch_up()
            self._files.keep_multi_vectors()
            self._sign(dataclasses.replace(manifest, complete=True))

    def settle(self) -> None:
        """Finish a change. It is committed: that the index cannot keep up with it now is no failure of the change."""
        try:
            self.finish()
        except SightlineError as error:
            logger.warning(
                "%s: the change was made, but the index could not be brought up to date, which makes searches slower; "
                "the next change tries again (%s)",
                self._path,
                error,
            )

    def _sign(self, manifest: Manifest) -> None:
        """Write the manifest, with the checksum of the database as it is, and map what it names."""
        store = self._files.store
        with committing(self._path):
            signed = StoreRecord(store.change_counter(), digest(store.path))
            dataclasses.replace(manifest, store=signed, counts=store.counts()).save(self._path)
            for file in self._path.glob("vectors-*.faiss*"):
                if file.name != manifest.faiss.file:
                    file.unlink()
            self._files.map()

    def _grown(self, faiss: FaissRecord) -> FaissRecord:
        """The FAISS structure over all rows, built or extended."""
        if faiss.factory == "Flat":
            version, device = flat_engine()
            return dataclasses.replace(faiss, version=version, device=device)
        assert self._files.vectors is not None
        rows = self._files.store.rows()
        if rows <= (faiss.rows or 0):
            return faiss
        # Clusters trained on less than half of what they must hold are trained anew.
        old = faiss.file if rows <= 2 * (faiss.trained or 0) else None
        file = self._path / f"vectors-{rows}.faiss"
        vectors, grow = self._files.vectors.map(rows), None if old is None else self._path / old
        with replacing(file, one_writer=True) as beside:
            build_structure(vectors, faiss.factory, beside, grow)
        return dataclasses.replace(
            faiss,
            version=import_faiss().__version__,
            device=faiss_device(),
            file=file.name,
            rows=rows,
            digest=digest(file),
            trained=rows if old is None else faiss.trained,
        )

    def recover(self) -> None:
        """Repair an index whose writer was killed.

        The words, which have no checksums, are indexed again; the rest is signed.
        """
        if not self._files.store.rows():
            return
        try:
            with self.writing(), self._storing():
                store = self._files.store
                if store.change_counter() == Manifest.load(self._path).store.counter:
                    return  # the writer was alive, and has signed its work since
                with committing(self._path), store.transaction():
                    self._files.words.rebuild()
                self._files.words.catch_up()
                self._sign(Manifest.load(self._path))
        except IndexLockedError:
            return  # another writer is at work, and will sign what it leaves
        except IndexStoreError as error:
            if os.access(self._path, os.W_OK) or not self._files.words.rebuild_in_memory():
                raise
            logger.warning("%s: its last writer was interrupted, and it cannot be mended here (%s)", self._path, error)


def _same(stored: Document | None, given: Document) -> bool:
    """Whether a stored document is the given one."""
    return stored is not None and (stored.title, stored.text, as_json(stored.metadata)) == (
        given.title,
        given.text,
        as_json(given.metadata),
    )
