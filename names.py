"""The grammar of names: how you write systems, rerankers, lexical engines and stores everywhere in Sightline.

SYSTEM   = FIRST | FIRST "+" RERANKER
FIRST    = bm25 | sparse | dense | multivector | hybrid | hybrid-multivector | the name of a run that you give
RERANKER = LAYOUT | FOLDER | FILE.yaml | DECODER[#LAYOUT] | READER[#LAYOUT] | cross-encoder:MODEL | REMOTE
         | CASCADE
READER   = encoder:MODEL | late-interaction:MODEL    the token states of a bi-encoder, or of a model like ColBERT
DECODER  = smollm2 | hf:MODEL         MODEL = REPOSITORY | REPOSITORY:FILE.gguf | FOLDER | FILE.gguf
REMOTE   = remote:SERVER/MODEL[#raw]              SERVER = cohere | jina | voyage | a URL that ends in /rerank
CASCADE  = RERANKER ">" RERANKER ["@" N ["*" WEIGHT]]
LEXICAL  = fts5 | tantivy | pyserini | none | sparse:MODEL
STORE    = FOLDER | qdrant-edge:PATH | qdrant://HOST[:PORT]/COLLECTION | qdrants://HOST[:PORT]/COLLECTION

``sparse`` searches an index that was built with ``--lexical sparse:MODEL``, ``bm25`` the others. In a cascade, the
second reranker ranks the N best documents of the first, 20 if there is no number. ``qdrants://`` is ``qdrant://`` over
TLS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args
from urllib.parse import parse_qsl, urlsplit

from .errors import InputError
from .wording import did_you_mean, quoted

__all__ = [
    "CASCADE_TOP",
    "DECODERS",
    "EMBEDDED_STAGES",
    "FIRST_STAGES",
    "FUSED_STAGES",
    "LAYOUTS",
    "MULTIVECTOR_STAGES",
    "NEXT_COLLECTION",
    "PREFIXES",
    "READERS",
    "SHIPPED",
    "STATES_COLLECTION",
    "WORD_STAGES",
    "CascadeName",
    "FirstStage",
    "Kind",
    "LexicalName",
    "RemoteName",
    "RerankerName",
    "StoreName",
    "SystemName",
    "WordStage",
    "folder_of",
    "layout_names",
    "looks_local",
]

WordStage = Literal["bm25", "sparse"]
"""A first stage that searches the words of an index, without its embeddings."""
FirstStage = Literal["bm25", "sparse", "dense", "multivector", "hybrid", "hybrid-multivector"]
"""A first stage: what finds the candidates of a query."""
FIRST_STAGES: tuple[FirstStage, ...] = get_args(FirstStage)
"""All first stages."""
WORD_STAGES: tuple[WordStage, ...] = get_args(WordStage)
"""The first stages that search the words of an index. An index has at most one of them."""
FUSED_STAGES: dict[str, tuple[FirstStage, ...]] = {"hybrid": ("dense",), "hybrid-multivector": ("dense", "multivector")}
"""The first stages that fuse others, each with those that it fuses with the words of an index."""
EMBEDDED_STAGES: tuple[FirstStage, ...] = ("dense", "hybrid", "hybrid-multivector")
"""The first stages that search the embeddings of an index."""
MULTIVECTOR_STAGES: tuple[FirstStage, ...] = ("multivector", "hybrid-multivector")
"""The first stages that search the token states of an index."""
Kind = Literal["layout", "folder", "hf", "cross-encoder", "encoder", "late-interaction", "remote", "cascade"]
"""A kind of reranker; see `RerankerName`."""
PREFIXES = ("hf", "cross-encoder", "encoder", "late-interaction")
"""The kinds of rerankers whose prefix stands before the name of a model on the hub."""
CASCADE_TOP = 20
"""The number of documents that the second reranker of a cascade ranks if its name gives none."""
_DATA = resources.files(__package__) / "data"
LAYOUTS = _DATA / "layouts"
"""The folder of the layouts that ship with Sightline."""
SHIPPED = {name: Path(str(_DATA / name.replace("-", "_"))) for name in ("sightline-mini", "sightline-135m")}
"""The trained rerankers that ship with Sightline, each with its folder."""
READERS: dict[Kind, str] = {"encoder": "minilm-log-mass", "late-interaction": "minilm-maxsim"}
"""The kinds of block readers, each with the layout that it gets if you name none."""
DECODERS = {"smollm2": "icr-block-heads"}
"""The decoders that have a name of their own, each with the layout that it gets if you name none."""
# The number of documents may be followed by a weight; anything else belongs to the name.
_ENDING = re.compile(r"@(?P<top>\d{1,9})(?:\*(?P<weight>\d{1,9}(?:\.\d{1,9})?|\.\d{1,9}))?$", re.ASCII)
_LEXICAL = ("fts5", "tantivy", "pyserini", "none")
_PROVIDER = re.compile(r"[\w.-]*", re.ASCII)
_VERSIONED = re.compile(r"/v\d+/rerank$", re.IGNORECASE)  # such a path takes a model's name
_SERVER = re.compile(r"(?P<server>https?://[!-~]*?/rerank)(?:/(?P<model>.*))?", re.IGNORECASE | re.DOTALL)
_QDRANT = re.compile(
    r"qdrant(?P<tls>s?)://(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?/(?P<collection>[\w.-]+)"
    r"(?:\?(?P<options>.*))?"
)
STATES_COLLECTION = "-states"
"""The end of the name of the collection in Qdrant that keeps the token states of an index."""
NEXT_COLLECTION = ".next"
"""The end of the name of the collection in Qdrant that will replace that of an index."""
_RESERVED = (NEXT_COLLECTION, STATES_COLLECTION)
_GGUF = re.compile(r"(?P<model>.*\.gguf)(?:#(?P<layout>.*))?", re.IGNORECASE | re.DOTALL)


def layout_names() -> list[str]:
    """List the layouts that ship with Sightline."""
    return sorted(file.name.removesuffix(".yaml") for file in LAYOUTS.iterdir() if file.name.endswith(".yaml"))


class SystemName(NamedTuple):
    """The name of a system: a first stage, and maybe a reranker of what it finds.

    Args:
        first: one of `FIRST_STAGES`, such as ``dense``, or the name of a run that you give.
        reranker: the name of a reranker, as `sightline.load_reranker` takes it. None for the first stage alone.

    Example:
        >>> SystemName.parse("dense+hf:Qwen/Qwen3-0.6B#icr")
        SystemName(first='dense', reranker='hf:Qwen/Qwen3-0.6B#icr')
    """

    first: str
    reranker: str | None = None

    @classmethod
    def parse(cls, name: str, given: Collection[str] = ()) -> SystemName:
        """Parse a name.

        Args:
            name: a name of the form ``FIRST`` or ``FIRST+RERANKER``.
            given: the names of runs that you give, which can take the place of a first stage.

        Raises:
            InputError: if this is not the name of a system.
        """
        if not isinstance(name, str):
            raise InputError(f"a system is named by a text, such as 'dense+minilm', not by {quoted(name)}")
        first, _, second = name.partition("+")
        stages = [*given, *FIRST_STAGES]
        if first not in stages or name.endswith("+"):
            raise InputError(
                f"no system {quoted(name)}; name FIRST or FIRST+RERANKER with FIRST one of {', '.join(stages)}"
                f"{did_you_mean(first, stages) if first not in stages else ''}"
            )
        return cls(first, second or None)

    def __str__(self) -> str:
        return self.first if self.reranker is None else f"{self.first}+{self.reranker}"


@dataclass(frozen=True, slots=True)
class RerankerName:
    """The parts of a reranker's name.

    Args:
        kind: the kind of reranker. ``hf``, ``cross-encoder``, ``encoder``, ``late-interaction`` and ``remote`` stand
            before a colon; ``layout`` means a layout that ships with Sightline or a ``.yaml`` file; ``cascade`` means
            two rerankers with a ``>`` between them; ``folder`` means anything else.
        model: the name or folder of the model. For a ``layout``, its name or file; for ``remote``, everything after the
            colon (see `RemoteName`); for a ``cascade``, the whole name (see `CascadeName`).
        layout: the part after ``#`` of ``hf:MODEL``, ``smollm2``, ``encoder:MODEL`` or ``late-interaction:MODEL``; ""
            if there is none.

    Example:
        >>> RerankerName.parse("hf:Qwen/Qwen3-0.6B#icr")
        RerankerName(kind='hf', model='Qwen/Qwen3-0.6B', layout='icr')
        >>> RerankerName.parse("smollm2")
        RerankerName(kind='hf', model='smollm2', layout='')
        >>> RerankerName.parse("cross-encoder:models/mine").kind, RerankerName.parse("trained/mine").kind
        ('cross-encoder', 'folder')
        >>> RerankerName.parse("minilm>smollm2@10").kind
        'cascade'
    """

    kind: Kind
    model: str
    layout: str = ""

    @classmethod
    def parse(cls, name: str | os.PathLike[str]) -> RerankerName:
        """Parse a name. This does not check whether such a reranker exists; `sightline.load_reranker` does.

        Raises:
            InputError: if the name is neither a string nor a path, names a kind of model but no model, or is refused by
                `RemoteName`.
        """
        name = os.fspath(name) if isinstance(name, os.PathLike) else name
        if not isinstance(name, str):
            raise InputError(f"a reranker is loaded by its name, not by {type(name).__name__}")
        if ">" in name:
            return cls("cascade", name)
        kind, colon, rest = name.partition(":")
        if colon and kind in PREFIXES:
            model, layout = (rest, "") if kind == "cross-encoder" else _model_and_layout(rest)
            if not model:
                example = "Qwen/Qwen3-0.6B" if kind == "hf" else "PATH"
                raise InputError(f"{name!r} names no model; add its name on the hub or its folder: {kind}:{example}")
            return cls(cast(Kind, kind), model, layout)
        if colon and kind == "remote":
            RemoteName.parse(rest)
            return cls("remote", rest)
        model, layout = _model_and_layout(name)
        if model in DECODERS:
            return cls("hf", model, layout)
        return cls("layout" if name in layout_names() or name.endswith((".yaml", ".yml")) else "folder", name)


def _model_and_layout(text: str) -> tuple[str, str]:
    """``MODEL#LAYOUT`` taken apart; a ``#`` in the path of a GGUF file is the path's."""
    if (file := _GGUF.fullmatch(text)) is not None:
        return file["model"], file["layout"] or ""
    model, _, layout = text.partition("#")
    return model, layout


class RemoteName(NamedTuple):
    """The name of a reranker behind a rerank API: the part after ``remote:``.

    Args:
        server: a provider, such as ``cohere``, or a URL whose path ends in ``/rerank``.
        model: the name of the model; "" for a server that has one model and takes no name (text-embeddings-inference).
        raw: whether the name ends in ``#raw``, which means that the scores can be any numbers rather than
            probabilities.

    Example:
        >>> RemoteName.parse("cohere/rerank-v3.5")
        RemoteName(server='cohere', model='rerank-v3.5', raw=False)
        >>> RemoteName.parse("http://localhost:8000/v1/rerank/BAAI/bge-reranker-v2-m3#raw")
        RemoteName(server='http://localhost:8000/v1/rerank', model='BAAI/bge-reranker-v2-m3', raw=True)
        >>> RemoteName.parse("http://localhost:8080/rerank")
        RemoteName(server='http://localhost:8080/rerank', model='', raw=False)
    """

    server: str
    model: str
    raw: bool = False

    @classmethod
    def parse(cls, name: str) -> RemoteName:
        """Parse ``PROVIDER/MODEL``, ``URL/MODEL`` or ``URL``, each with or without ``#raw`` at its end.

        Messages do not quote the URL, since it may hold a secret by mistake.

        Raises:
            InputError: if the URL is not an HTTP URL, holds a user, a password or a query, or does not end in
                ``/rerank``, or if the name of the model is missing.
        """
        rest, sign, ending = name.partition("#")
        if sign and ending != "raw":
            raise InputError("the # of a remote reranker may be followed by raw, for scores that are no probabilities")
        if _PROVIDER.fullmatch(server := rest.partition("/")[0]):
            model: str | None = rest.partition("/")[2]
        elif "?" in rest or (parts := _SERVER.fullmatch(rest)) is None or "@" in parts["server"]:
            raise InputError(
                "the URL of a remote reranker begins with http:// or https://, ends in /rerank before the model's "
                "name, and holds no user, password or query, since names are printed and stored: "
                "remote:http://localhost:8000/v1/rerank/MODEL; set a key as SIGHTLINE_REMOTE_KEY in the environment"
            )
        else:
            server, model = parts["server"], parts["model"]
            _check_host(server)
            if model is None and not _VERSIONED.search(server):
                return cls(server, "", bool(sign))
        if not (model or "").strip():
            raise InputError(
                f"{quoted('remote:' + rest)} names no model; write remote:PROVIDER/MODEL, such as "
                "remote:cohere/rerank-v3.5, or remote:URL/MODEL, such as remote:http://localhost:8000/v1/rerank/MODEL"
            )
        return cls(server, model or "", bool(sign))


def _check_host(url: str) -> None:
    """Refuse a URL that no connection can be made to."""
    try:
        host, _ = urlsplit(url).hostname, urlsplit(url).port
        usable = bool((host or "").encode("idna"))
    except ValueError:  # of which UnicodeError, for the parts of a host's name, is one
        usable = False
    if not usable:
        raise InputError(
            "the URL of a remote reranker has no host, or an impossible host or port; "
            "write remote:http://localhost:8000/v1/rerank/MODEL"
        )


class CascadeName(NamedTuple):
    """The name of a cascade: one reranker, and a second one for the top of its list.

    Args:
        first: the name of the first reranker.
        second: the name of the second reranker.
        top: the number of documents that the second reranker ranks.
        weight: the weight with which the second reranker's standardised score is added to the first one's. If None, the
            second reranker decides alone.

    Example:
        >>> CascadeName.parse("minilm>smollm2#icr@10")
        CascadeName(first='minilm', second='smollm2#icr', top=10, weight=None)
        >>> CascadeName.parse("minilm>sightline-135m@20*0.2")
        CascadeName(first='minilm', second='sightline-135m', top=20, weight=0.2)
        >>> CascadeName.parse("minilm>cross-encoder:models/mine>smollm2")
        CascadeName(first='minilm>cross-encoder:models/mine', second='smollm2', top=20, weight=None)
    """

    first: str
    second: str
    top: int = CASCADE_TOP
    weight: float | None = None

    @classmethod
    def parse(cls, name: str) -> CascadeName:
        """Parse ``FIRST>SECOND``, ``FIRST>SECOND@TOP`` or ``FIRST>SECOND@TOP*WEIGHT``.

        Raises:
            InputError: if the name of a reranker is missing.
        """
        first, _, rest = name.rpartition(">")
        ending = _ENDING.search(rest)
        second = rest[: ending.start()] if ending else rest
        if not first or not second:
            raise InputError(
                f"{quoted(name)} is not a cascade; write FIRST>SECOND@N, such as minilm>smollm2@10, in quotes in a "
                "shell"
            )
        if ending is None:
            return cls(first, second)
        return cls(first, second, int(ending["top"]), float(ending["weight"]) if ending["weight"] else None)

    def __str__(self) -> str:
        return f"{self.first}>{self.second}@{self.top}" + ("" if self.weight is None else f"*{self.weight:g}")


class LexicalName(NamedTuple):
    """The name of what an index keeps of words.

    Args:
        engine: ``fts5``, ``tantivy`` or ``pyserini`` for BM25, ``sparse`` for learned sparse vectors, or ``none``.
        model: the folder of the model or its name on the hub, for ``sparse``; "" for the others.

    Example:
        >>> LexicalName.parse("sparse:naver/splade-v3")
        LexicalName(engine='sparse', model='naver/splade-v3')
        >>> LexicalName.parse("fts5").stage, LexicalName.parse("sparse:models/mine").stage
        ('bm25', 'sparse')
    """

    engine: str
    model: str = ""

    @classmethod
    def parse(cls, name: str) -> LexicalName:
        """Parse ``fts5``, ``tantivy``, ``pyserini``, ``none`` or ``sparse:MODEL``.

        Raises:
            InputError: if it is none of these.
        """
        if not isinstance(name, str):
            raise InputError(f"a lexical engine is named by a text, such as 'fts5', not by {quoted(name)}")
        engine, colon, model = name.partition(":")
        if engine == "sparse" and not model.strip():
            raise InputError(f"{name!r} names no model; add its name on the hub or its folder: sparse:naver/splade-v3")
        if not (engine == "sparse" if colon else name in _LEXICAL):
            known = [*_LEXICAL, "sparse:MODEL"]
            raise InputError(
                f"the lexical engine must be one of {', '.join(map(repr, known))}, not "
                f"{name!r}{did_you_mean(name, known)}"
            )
        return cls(engine, model)

    @property
    def stage(self) -> WordStage | None:
        """The first stage that searches these words; None for ``none``."""
        return None if self.engine == "none" else "sparse" if self.engine == "sparse" else "bm25"

    def check(self, stage: str, index: str) -> None:
        """Refuse a first stage that searches other words than these.

        Args:
            stage: the name of a first stage. A stage that searches no words is always accepted.
            index: the name of the index, for the message.

        Raises:
            InputError: if an index that keeps these words does not have this first stage.
        """
        if self.stage is None or self.stage == stage or stage not in WORD_STAGES:
            return
        if stage == "bm25":
            raise InputError(
                f"{index} keeps learned sparse vectors of {self.model!r} in the place of BM25: search it by the first "
                "stage sparse, or build it with --lexical fts5"
            )
        raise InputError(
            f"{index} keeps words for BM25, not learned sparse vectors: search it by the first stage bm25, or build it "
            "with --lexical sparse:MODEL"
        )

    def __str__(self) -> str:
        return f"{self.engine}:{self.model}" if self.model else self.engine


class StoreName(NamedTuple):
    """The name of a place where an index is kept: a folder, or a store of another engine.

    Args:
        kind: ``folder``, ``qdrant-edge`` (Qdrant's engine in this process, on disk) or ``qdrant`` (a Qdrant server).
        place: the path of the folder, or the URL of the server.
        collection: the name of the collection, for a server; "" for the others.
        timeout: the number of seconds to wait for a server's answer to one request, if the name says so.
        retries: the number of times that a request to a server is sent again, if the name says so.

    Example:
        >>> StoreName.parse("qdrant://localhost:6333/papers?timeout=300").timeout
        300.0
        >>> StoreName.parse("qdrant-edge:papers.qdrant").place, StoreName.parse("papers.index").kind
        ('papers.qdrant', 'folder')
    """

    kind: Literal["folder", "qdrant-edge", "qdrant"]
    place: str
    collection: str = ""
    timeout: float | None = None
    retries: int | None = None

    @classmethod
    def parse(cls, name: str | os.PathLike[str]) -> StoreName:
        """Parse a path, ``qdrant-edge:PATH`` or ``qdrant://HOST:PORT/COLLECTION``; ``qdrants://`` is over TLS.

        The name of a server may end in ``?timeout=SECONDS&retries=NUMBER``, or one of both.

        Raises:
            InputError: if the name begins like that of a store but is not one.
        """
        text = os.fspath(name)
        if text.startswith("qdrant-edge:"):
            if not text.removeprefix("qdrant-edge:").strip():
                raise InputError(f"{text!r} names no folder; write qdrant-edge:PATH")
            return cls("qdrant-edge", text.removeprefix("qdrant-edge:"))
        if not text.startswith(("qdrant:", "qdrants:")):
            return cls("folder", text)
        parts = _QDRANT.fullmatch(text)
        if parts is None or int(parts["port"] or 1) not in range(1, 65536):
            raise InputError(
                "a Qdrant server is named qdrant://HOST:PORT/COLLECTION, such as qdrant://localhost:6333/papers, or "
                "qdrants:// over TLS; set a key as QDRANT_API_KEY in the environment, never in the name"
            )
        if parts["collection"].endswith(_RESERVED):
            raise InputError(
                f"{text!r} ends as the collections that Sightline makes for other indexes "
                f"({', '.join(_RESERVED)}); use another name"
            )
        place = f"http{parts['tls']}://{parts['host']}:{parts['port'] or 6333}"
        return cls("qdrant", place, parts["collection"], **_server_options(parts["options"], text))


def _server_options(query: str | None, name: str) -> dict[str, Any]:
    """What stands behind the question mark of a server's name."""
    kinds: dict[str, Callable[[str], float]] = {"timeout": float, "retries": int}
    try:
        pairs = parse_qsl(query or "", keep_blank_values=True, strict_parsing=bool(query))
        options = {key: kinds[key](value) for key, value in pairs}
    except (KeyError, ValueError):
        options = None
    if options is None or query == "" or len(options) < len(pairs):
        raise InputError(
            f"{name!r} does not say how a server is asked; behind its collection may stand "
            "?timeout=SECONDS&retries=NUMBER, or one of both"
        )
    return options


def folder_of(name: str) -> Path:
    """Find the folder that a name stands for: that of a reranker that ships with Sightline, or the path itself.

    Example:
        >>> folder_of("sightline-mini").name, folder_of("models/mine").name
        ('sightline_mini', 'mine')
    """
    return SHIPPED.get(name, Path(name))


def looks_local(name: str) -> bool:
    """Tell whether a model's name can only be a path.

    Names on the hub have at most one slash and begin with a letter or digit.
    """
    return name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name
