"""Text that every Python carries: the help topics of `pydoc_data` and the docstrings of the standard library.

The text differs between Python versions, patch versions included. Whatever is made from it has a key that contains
`corpus_sha256`.
"""

import ast
import gc
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from dmsae_ray.errors import DataError

MIN_DOCSTRING = 200
"""Characters that a docstring must have to be a document; shorter ones say too little."""

VALIDATION_SHARE = 20
"""One document in so many is held out."""

# Not text about Python, or not in every build.
_SKIPPED = frozenset(("test", "tests", "idlelib", "idle_test", "turtledemo", "lib2to3", "ensurepip", "site-packages"))
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def stdlib_documents() -> list[str]:
    """Return the help topics (sorted by name), then the docstrings of at least 200 characters; each text once.

    Docstrings are sorted by file, then by their place in it. The call reads this Python's standard library: about 2,250
    documents and 1.65 million characters in 2-3 seconds, once per process.

    Raises:
        DataError: this Python has no readable source of its standard library.
    """
    return list(_documents())


def corpus_sha256(documents: Iterable[str]) -> str:
    """Return a hash of the documents, and of where one ends and the next begins."""
    digest = hashlib.sha256()
    for document in documents:
        data = document.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def split_documents(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the training documents and the held-out documents, in order.

    The side of a document depends on its own text alone, so a document that two Pythons share is on the same side in
    both.
    """
    train: list[str] = []
    held_out: list[str] = []
    for document in documents:
        (held_out if _draw(document) % VALIDATION_SHARE == 0 else train).append(document)
    return train, held_out


def stdlib_fingerprint() -> str:
    """Return a hash of the names, sizes and times of the files of `stdlib_documents`, which are not read (10 ms)."""
    digest = hashlib.sha256(sys.version.encode())
    root = _root()
    for path in _sources(root):
        stat = path.stat()
        digest.update(f"{path.relative_to(root).as_posix()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _draw(document: str) -> int:
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "little")


@lru_cache(maxsize=1)
def _documents() -> tuple[str, ...]:
    # Syntax trees are many objects without cycles. To look for cycles again and again, among all that torch and
    # transformers have made, takes twice as long as the rest.
    collects = gc.isenabled()
    gc.disable()
    try:
        # A dictionary keeps the first of equal texts, in order. Copies on both sides of the split would leak.
        documents = tuple(dict.fromkeys((*_topics(), *_docstrings(_root()))))
    finally:
        if collects:
            gc.enable()
    if not documents:
        raise DataError(f"corpus.source 'stdlib': '{_root()}' holds no Python source; install the full Python")
    return documents


def _topics() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some minimal Pythons do not have it
        return
    for name in sorted(topics):
        text = topics[name].strip()
        if text:
            yield text


def _docstrings(root: Path) -> Iterator[str]:
    for path in _sources(root):
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        nodes = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)]
        for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
            text = ast.get_docstring(node)
            if text and len(text) >= MIN_DOCSTRING:
                # Escapes can make lone surrogates, which cannot be encoded.
                yield text.encode("utf-8", "replace").decode()


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _sources(root: Path) -> list[Path]:
    """Return the source files of the standard library's modules, sorted by name; site-packages is never entered."""
    found: list[Path] = []
    for name in sorted(sys.stdlib_module_names - _SKIPPED):
        if (root / f"{name}.py").is_file():
            found.append(root / f"{name}.py")
        if (root / name).is_dir():
            inside = (root / name).rglob("*.py")
            found += [path for path in inside if not _SKIPPED.intersection(path.relative_to(root).parts)]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())
