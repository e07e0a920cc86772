"""The demo collection: the documentation of the Python standard library that is installed here.

Modules written in Python are read with ``ast`` and never imported: an import can open windows, start threads or
print. Only modules without Python source (``math``, ``_csv``, ...) and a short list of quiet ones are imported.
"""

from __future__ import annotations

import ast
import csv
import importlib
import importlib.util
import inspect
import json
import logging
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from ...documents import Document
from ...errors import DataError

__all__ = ["stdlib_documents", "write_collection"]

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_MIN_WORDS = 3  # "Return self." tells a reader nothing
_PLACEHOLDER = "XXX to be provided"  # what ctypes says of its types
_MIN_QUESTIONS = 100  # fewer would make the demo's averages noise
_MAX_SIGNATURE = 120

# Not documentation of anything one calls, or (encodings) a hundred generated tables.
_NOT_A_LIBRARY = "antigravity encodings ensurepip idlelib lib2to3 pydoc_data test this turtledemo"
# Left out of every version, so that one set of judgements fits all.
_REMOVED_BY_3_13 = (
    "aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp mailcap msilib nis nntplib ossaudiodev "
    "pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib"
)
_SHOWN_AS_OS = "genericpath nt ntpath posix posixpath"
_SKIP = frozenset(f"{_NOT_A_LIBRARY} {_REMOVED_BY_3_13} {_SHOWN_AS_OS}".split())
_SKIP_INSIDE = frozenset({"test", "tests", "idle_test", "lib2to3"})
_NO_IMPORT = frozenset({"_tkinter", "readline"})  # these touch the display or the terminal as they load
_SOURCE_OF = {"collections.abc": "_collections_abc", "os.path": "posixpath"}  # stand-ins that have no text
_HIDDEN = frozenset({"genericpath", "nt", "posix"})  # private in all but name
# Quiet modules that make public names as they run (random.choice is a bound method), where no parser sees them.
_NAMED_AT_RUN_TIME = (
    "calendar",
    "hashlib",
    "multiprocessing",
    "os.path",
    "random",
    "re",
    "signal",
    "threading",
    "types",
)


def stdlib_documents() -> Iterator[Document]:
    """Yield one document per documented module, class, function and method, ordered by id.

    The id is the dotted public name (``csv.reader``, ``os.path.join``, ``str.split``), the title that name with
    its signature or kind, the text its docstring, and the metadata says ``module`` and ``kind``. A class or function
    that its module lists in ``__all__`` has a document even if it has no docstring (``csv.DictReader``): the text then
    is the first paragraph of the module's docstring and, of a class, the names of its bases and methods.

    Yields:
        Documents with distinct ids; the same sequence on every call.

    Example:
        >>> "json.loads" in {document.id for document in stdlib_documents()}
        True
    """
    modules = list(_public_modules())
    collector = _Collector(modules)
    collector.add_members("builtins", vars(importlib.import_module("builtins")), prefix="")
    for name in modules:
        collector.add_module(name)
    for name in _NAMED_AT_RUN_TIME:
        if (module := _import(name)) is not None:
            names = getattr(module, "__all__", None) or sorted(vars(module))
            collector.add_members(name, {n: getattr(module, n) for n in names if hasattr(module, n)}, prefix=f"{name}.")
    for key in sorted(collector.documents):
        yield collector.documents[key]


def write_collection(folder: str | Path) -> Path:
    """Write the collection as a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/test.tsv``.

    Judgements of names that this Python does not have are dropped, and with them every question that nothing
    answers any more.

    Args:
        folder: where to write; made if it is not there.

    Returns:
        The folder.

    Raises:
        DataError: if fewer than 100 questions keep an answer.
    """
    folder = Path(folder)
    documents = list(stdlib_documents())
    known = {document.id for document in documents}
    with (_HERE / "queries.jsonl").open(encoding="utf-8") as lines:
        questions: list[dict[str, str]] = [json.loads(line) for line in lines]
    with (_HERE / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as lines:
        judged = [(q, d, int(grade)) for q, d, grade in list(csv.reader(lines, delimiter="\t"))[1:]]
    kept = [row for row in judged if row[1] in known]
    answered = {question for question, _, grade in kept if grade == 2}
    kept = [row for row in kept if row[0] in answered]
    questions = [question for question in questions if question["_id"] in answered]
    if len(kept) < len(judged):
        logger.warning("%d of %d judgements are about names this Python lacks", len(judged) - len(kept), len(judged))
    if len(questions) < _MIN_QUESTIONS:
        raise DataError(
            f"only {len(questions)} questions have an answer in the standard library installed here, fewer than "
            f"{_MIN_QUESTIONS}; install Python with its library sources (on some systems a package of its own)",
            path=_HERE / "queries.jsonl",
        )
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_jsonl(
        folder / "corpus.jsonl",
        ({"_id": d.id, "title": d.title, "text": d.text, "metadata": dict(d.metadata)} for d in documents),
    )
    _write_jsonl(folder / "queries.jsonl", questions)
    with (folder / "qrels" / "test.tsv").open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, delimiter="\t", lineterminator="\n")
        rows.writerow(("query-id", "corpus-id", "score"))
        rows.writerows(kept)
    logger.info("wrote %d documents, %d questions, %d judgements", len(documents), len(questions), len(kept))
    return folder


def _write_jsonl(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


# --- where the names are --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Node:
    """A class or function found in Python source, and the module it stands in."""

    module: str
    tree: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class _Object:
    """A class or function of a module without Python source."""

    value: object


@dataclass(eq=False)
class _Source:
    """What a module's source says: its docstring, its ``__all__``, and what each name may be, most wanted first."""

    doc: str = ""
    listed: set[str] = field(default_factory=set)
    names: dict[str, list[_Node | _Object]] = field(default_factory=dict)
    exports: dict[str, list[_Node | _Object]] = field(default_factory=dict)


def _is_private(module: str) -> bool:
    return module in _HIDDEN or any(part.startswith("_") for part in module.split("."))


def _stdlib_file(module: str) -> Path | None:
    base = Path(sysconfig.get_path("stdlib")).joinpath(*_SOURCE_OF.get(module, module).split("."))
    return next((p for p in (base / "__init__.py", base.with_name(base.name + ".py")) if p.is_file()), None)


def _submodules(package: str) -> list[str]:
    file = _stdlib_file(package)
    if file is None or file.name != "__init__.py":
        return []
    names = sorted(entry.name.removesuffix(".py") for entry in file.parent.iterdir())
    public = [n for n in names if n.isidentifier() and not n.startswith("_") and n not in _SKIP_INSIDE]
    return [f"{package}.{n}" for n in public if _stdlib_file(f"{package}.{n}") is not None]


def _public_modules() -> Iterator[str]:
    def walk(name: str) -> Iterator[str]:
        yield name
        for child in _submodules(name):
            yield from walk(child)

    for name in sorted(sys.stdlib_module_names - _SKIP - _NO_IMPORT - {"builtins"}):
        if not name.startswith("_"):
            yield from walk(name)
    yield "os.path"


@cache
def _import(name: str) -> ModuleType | None:
    """Import a module by name, or return None where it is not there or not to be imported."""
    if name in _NO_IMPORT or name.split(".")[0] not in sys.stdlib_module_names:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception:  # a half-installed module must cost its own documents only
        logger.debug("cannot import %s", name, exc_info=True)
        return None


_SOURCES: dict[str, _Source] = {}


@cache  # one tree per file, so that a node is known again whatever module leads to it
def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        logger.debug("cannot parse %s", file.name, exc_info=True)
        return ast.Module(body=[], type_ignores=[])


def _source(module: str) -> _Source:
    """Read a module, once: from its Python source, or by importing it where it has none."""
    if module in _SOURCES:
        return _SOURCES[module]
    result = _SOURCES[module] = _Source()  # kept before it is filled: two modules may import from each other
    file = _stdlib_file(module)
    if file is not None:
        tree = _parse(file)
        result.doc = ast.get_docstring(tree) or ""
        listed = result.listed = _static_all(tree)
        _read(tree.body, module, file.name == "__init__.py", listed, result)
        # Some packages load their parts on first use (concurrent.futures): what they list stands in a submodule.
        for child in _submodules(module) if listed - result.names.keys() else ():
            for name in listed - result.names.keys():
                if _own(meanings := _source(child).exports.get(name, []), child):
                    result.exports[name] = meanings
        # A name in __all__ is public however it is spelt elsewhere; without __all__, what has no underscore is.
        for name, meanings in list(result.exports.items()):
            own = not _is_private(module) and _own(meanings, module)
            if name.startswith("_") or (listed and name not in listed and not own):
                del result.exports[name]
    elif (loaded := _import(module)) is not None:
        result.doc = loaded.__doc__ or ""
        # A hook may be anyone's by now (sys.excepthook under a test runner); sys keeps Python's own with underscores.
        values = {n: vars(loaded).get(f"__{n}__", v) if n.endswith("hook") else v for n, v in vars(loaded).items()}
        result.names = {n: [_Object(v)] for n, v in values.items() if _is_documentable(v)}
        listed = set(getattr(loaded, "__all__", None) or [n for n in result.names if not n.startswith("_")])
        result.exports = {n: m for n, m in result.names.items() if n in listed}
    return result


def _own(meanings: list[_Node | _Object], module: str) -> bool:
    return any(isinstance(m, _Node) and m.module == module for m in meanings)


def _static_all(tree: ast.Module) -> set[str]:
    """The names of ``__all__``, empty where it is absent or not wholly written down."""
    names: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AugAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                try:
                    names.update(ast.literal_eval(statement.value))
                except ValueError:
                    return set()
        elif isinstance(statement, ast.Expr) and ast.unparse(statement.value).startswith("__all__.extend("):
            return set()
    return names


def _read(body: list[ast.stmt], module: str, is_package: bool, listed: set[str], result: _Source) -> None:
    """Collect what top-level statements define or re-export, into ``result``."""
    for statement in body:
        match statement:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                # Python's own text goes first: where an accelerator in C redoes a name, it often says less.
                for table in (result.names, result.exports):
                    table.setdefault(statement.name, []).insert(0, _Node(module, statement))
            case ast.If():
                _read(statement.body + statement.orelse, module, is_package, listed, result)
            case ast.Try():
                inner = [s for handler in statement.handlers for s in handler.body]
                _read(statement.body + statement.orelse + inner, module, is_package, listed, result)
            case ast.Assign(targets=[ast.Name(id="__doc__")], value=ast.Constant(value=str(text))):
                result.doc = result.doc or text
            case ast.ImportFrom():
                origin = _origin(statement, module, is_package)
                inside = is_package and origin.startswith(f"{module}.")
                if not (inside or _is_private(origin)):
                    continue
                source = _source(origin)
                for alias in statement.names:
                    pairs = [(n, n) for n in source.exports] if alias.name == "*" else [(alias.name, alias.asname)]
                    if alias.name == "__doc__":
                        result.doc = result.doc or source.doc
                    for name, spelt in pairs:
                        meanings = source.names.get(name) or source.exports.get(name) or []
                        public = spelt or name
                        for table in (result.names, result.exports):
                            # An import that a module does not list is a tool of it, not a part of it.
                            if meanings and (table is result.names or not listed or public in listed):
                                table.setdefault(public, []).extend(meanings)
            case _:
                pass


def _origin(statement: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - statement.level + is_package]
    return ".".join([*base, statement.module] if statement.module else base)


# --- what they say --------------------------------------------------------------------------------------------------


class _Collector:
    """Gathers documents by id; the first text of an id stays."""

    def __init__(self, modules: list[str]) -> None:
        self.documents: dict[str, Document] = {}
        self._public = {self._key(m[0]) for name in modules for m in _source(name).exports.values()}
        self._shown: set[int] = set()  # what already has a document under its best name

    def add_module(self, name: str) -> None:
        source = _source(name)
        self._add(name, name, "module", f"{name} — module", source.doc)
        # Names before their aliases: array.array, then array.ArrayType, which is the same and not shown again.
        for public, meanings in sorted(source.exports.items(), key=lambda item: _is_alias(*item)):
            if self._key(meanings[0]) not in self._shown:
                self._shown.update(map(self._key, meanings))
                for meaning in meanings:
                    self._add_meaning(f"{name}.{public}", name, meaning)
                if public in source.listed and isinstance(meanings[0], _Node):
                    self._add_undocumented(f"{name}.{public}", name, meanings[0])

    def add_members(self, module: str, members: dict[str, object], prefix: str) -> None:
        """Add the public classes and functions of a live module that are not there yet."""
        for name, value in sorted(members.items()):
            taken = id(value) in self._shown or prefix + name in self.documents
            if name.startswith("_") or taken or not _is_documentable(value):
                continue
            if module != "builtins" or _is_builtin(value):
                self._shown.add(id(value))
                self._add_object(prefix + name, module, value)

    @staticmethod
    def _key(meaning: _Node | _Object) -> int:
        return id(meaning.tree) if isinstance(meaning, _Node) else id(meaning.value)

    def _add(self, key: str, module: str, kind: str, title: str, text: str) -> None:
        text = inspect.cleandoc(text).strip()
        if key not in self.documents and len(text.split()) >= _MIN_WORDS and text != _PLACEHOLDER:
            self.documents[key] = Document(key, text, title=title, metadata={"module": module, "kind": kind})

    def _add_undocumented(self, key: str, module: str, node: _Node) -> None:
        """Add a class or function whose docstring is missing or too short; one that has a document keeps it."""
        tree, about = node.tree, inspect.cleandoc(_source(module).doc).partition("\n\n")[0].rstrip("=-\n")
        if isinstance(tree, ast.ClassDef):
            kind, title = "class", _class_title(key, tree)
            bases = ", ".join(map(ast.unparse, tree.bases))
            # Methods that say something have documents of their own.
            methods = ", ".join(dict.fromkeys(m.name for m in _methods(tree) if not m.name.startswith("_")))
        else:
            kind, title, bases, methods = "function", key + _written_signature(tree, method=False), "", ""
        if about or methods:
            lines = [ast.get_docstring(tree), about, f"{kind.capitalize()} of {module}."]
            lines += [bases and f"Bases: {bases}.", methods and f"Methods: {methods}."]
            self._add(key, module, kind, title, "\n".join(line for line in lines if line))

    def _add_meaning(self, key: str, module: str, meaning: _Node | _Object) -> None:
        if isinstance(meaning, _Object):
            self._add_object(key, module, meaning.value)
        elif isinstance(meaning.tree, ast.ClassDef):
            self._add_class(key, module, meaning, meaning.tree)
        else:
            doc = ast.get_docstring(meaning.tree) or ""
            self._add(key, module, "function", key + _written_signature(meaning.tree, method=False), doc)

    def _add_class(self, key: str, module: str, node: _Node, tree: ast.ClassDef) -> None:
        builder = _builder(tree)
        # What to pass is often said in __init__ alone (threading.Thread).
        docs = [ast.get_docstring(tree), ast.get_docstring(builder) if builder else None]
        self._add(key, module, "class", _class_title(key, tree), "\n\n".join(doc for doc in docs if doc))
        for method in _methods(tree):
            if not method.name.startswith("_"):
                name = f"{key}.{method.name}"
                flags = {ast.unparse(d) for d in method.decorator_list}
                is_property = any(f.endswith("property") for f in flags)
                written = " — property" if is_property else _written_signature(method, "staticmethod" not in flags)
                self._add(name, module, "method", name + written, ast.get_docstring(method) or "")
        for inner in tree.body:
            if isinstance(inner, ast.ClassDef) and not inner.name.startswith("_"):
                self._add_class(f"{key}.{inner.name}", module, node, inner)
        # Members that come from a base nobody can name belong to this class (argparse.ArgumentParser.add_argument).
        for meaning in _bases(tree, node.module):
            if self._key(meaning) not in self._public | self._shown:
                if isinstance(meaning, _Node) and not meaning.tree.name.startswith("_"):
                    self._shown.add(self._key(meaning))  # pathlib's PurePathBase is one class, not one per heir
                self._add_meaning(key, module, meaning)

    def _add_object(self, key: str, module: str, value: object) -> None:
        doc = getattr(value, "__doc__", None)
        doc = doc if isinstance(doc, str) else ""
        if not inspect.isclass(value):
            self._add(key, module, "function", key + _live_signature(value), doc)
            return
        self._add(key, module, "class", f"{key}{_live_signature(value)} — class", doc)
        for owner in value.__mro__:
            if owner is value or owner.__name__.startswith("_"):
                for name, attribute in sorted(vars(owner).items()):
                    member = getattr(attribute, "__func__", attribute)  # str.maketrans is wrapped in a staticmethod
                    text = getattr(member, "__doc__", None)
                    if name.startswith("_") or not isinstance(text, str):
                        continue
                    if inspect.isroutine(member):
                        title = f"{key}.{name}{_live_signature(member)}"
                    elif inspect.isdatadescriptor(member):
                        title = f"{key}.{name} — property"
                    else:
                        continue
                    self._add(f"{key}.{name}", module, "method", title, text)


def _methods(tree: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [s for s in _flat(tree.body) if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef)]


def _builder(tree: ast.ClassDef) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    return next((method for method in _methods(tree) if method.name == "__init__"), None)


def _class_title(key: str, tree: ast.ClassDef) -> str:
    builder = _builder(tree)
    return f"{key}{_written_signature(builder, method=True) if builder else ''} — class"


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    # subprocess.Popen.kill stands under an ``if`` of the class.
    for statement in body:
        yield statement
        if isinstance(statement, ast.If):
            yield from _flat(statement.body + statement.orelse)


def _is_documentable(value: object) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def _is_alias(public: str, meanings: list[_Node | _Object]) -> bool:
    first = meanings[0]
    return isinstance(first, _Object) and getattr(first.value, "__name__", public) != public


def _is_builtin(value: object) -> bool:
    # Test runners and notebooks put things of their own among the builtins.
    return getattr(value, "__module__", "").lstrip("_") in ("builtins", "io")


def _bases(tree: ast.ClassDef, module: str) -> Iterator[_Node | _Object]:
    for base in tree.bases:
        match base:
            case ast.Name(id=name):
                yield from _source(module).names.get(name, [])
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if _is_private(owner):
                yield from _source(owner).names.get(name, [])


def _written_signature(tree: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> str:
    arguments = ast.unparse(tree.args)
    if method:
        arguments = re.sub(r"^\w+(, /)?(, |$)", "", arguments)
    return _shorten(f"({arguments})")


def _live_signature(value: object) -> str:
    try:
        text = str(inspect.signature(value))  # type: ignore[arg-type]
    except Exception:  # a default that names what is not there yet (curses) can raise anything
        return ""
    text = re.sub(r"^\((self|type)(, /)?(, |(?=\)))", "(", text)
    # A default shown as <object ...> may hold an address, which differs from run to run.
    return _shorten(re.sub(r"<[^<>]*>", "...", text))


def _shorten(signature: str) -> str:
    if len(signature) <= _MAX_SIGNATURE:
        return signature
    return signature[:_MAX_SIGNATURE].rpartition(", ")[0] + ", ...)"
