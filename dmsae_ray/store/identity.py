"""The identity of a store: all that its content depends on, so that changed text never meets old activations.

A model or corpus on this machine counts by its content, not by its path: the same content elsewhere is the same store.
A local model counts by the full content of its files; a local corpus by the names and sizes of its files and by their
content, of which only samples are read if the corpus is above 256 MiB. A model or corpus on the Hub counts by its id
and revision, a corpus in a bucket by its URI: nothing is read over the network.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from dmsae_ray.config import CorpusSettings, Experiment
from dmsae_ray.corpus import check_is_on_hub, corpus_files
from dmsae_ray.errors import DataError
from dmsae_ray.files import file_sha256, filesystem, local_path
from dmsae_ray.store.layout import FORMAT

_WEIGHTS = (".safetensors", ".bin")
_MODEL_FILES = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
}
_TEMPLATES = {"chat_template.jinja", "chat_template.json"}
"""Where messages are read, they decide the tokens too; elsewhere they leave old keys as they are."""
_NO_MESSAGES = ("stdlib", "text")
_WHOLE_BYTES = 256 << 20  # a corpus up to this size is read in full
_SAMPLED_FILES, _SAMPLES, _SAMPLE_BYTES = 2048, 8, 16 << 10

_HOW_IT_IS_READ = {"mode", "shuffle_shards", "norm_tokens"}
_STDLIB_FIELDS = {"source", "special_tokens", "context", "tokens", "attribution_tokens", "eval_tokens"}

FileStamp = tuple[str, str, int, int]
"""A file: name, path, size in bytes, time of its last change in ns."""


def request_of(experiment: Experiment) -> dict[str, Any]:
    """Return all that decides the content of a store.

    A local model or corpus is described by its content, not by its path (see this module's docstring). The Python
    version counts for the standard library's text and for the embedded model, which is trained on it: both differ
    between versions. `mode`, `shuffle_shards` and `norm_tokens` say how a store is read, so they are left out.
    """
    request: dict[str, Any] = {
        "format": FORMAT,
        "model": experiment.model.model_dump(mode="json"),
        "corpus": experiment.corpus.identity(),
        "activations": experiment.activations.model_dump(mode="json", exclude=_HOW_IT_IS_READ),
    }
    for section, name, content in (
        ("model", "name", model_content(experiment.model.name, chat=experiment.corpus.source not in _NO_MESSAGES)),
        ("corpus", "path", corpus_content(experiment.corpus)),
    ):
        if content is not None:
            request[section] = {**request[section], name: None, "content": content}
    if experiment.corpus.source == "stdlib":
        request["corpus"] = {k: v for k, v in request["corpus"].items() if k in _STDLIB_FIELDS}
    if experiment.corpus.source == "stdlib" or experiment.model.name == "tiny":
        request["python"] = ".".join(map(str, sys.version_info[:3]))
    return request


def store_key(experiment: Experiment) -> str:
    """Return the key of a store: a hash [24 hex digits] of the model, corpus and activations sections."""
    text = json.dumps(request_of(experiment), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def model_content(name: str, *, chat: bool = False) -> str | None:
    """Return a hash of a local model's configuration, tokenizer and weights; None for a model that is not local.

    Large files are read once; their hashes are kept in the user's cache folder by path, size and time stamps.

    Args:
        name: as `model.name`.
        chat: whether the chat template counts, because the corpus may hold messages.
    """
    folder = Path(name).expanduser()
    if name == "tiny" or not folder.is_dir():
        return None
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    suffix = next((s for s in _WEIGHTS if any(path.suffix == s for path in files)), None)
    chosen = [
        p
        for p in files
        if p.suffix == suffix
        or p.name in _MODEL_FILES
        or (chat and p.name in _TEMPLATES)
        or p.name.endswith((".model", ".index.json"))
    ]
    return _digest([path.name, file_sha256(path)] for path in chosen)


def corpus_content(corpus: CorpusSettings) -> str | None:
    """Return a hash of the files of a local corpus; None if it is not local or does not exist.

    Raises:
        ConfigError: source 'huggingface' names something on this machine.
    """
    if corpus.source == "huggingface":
        check_is_on_hub(corpus)
    if corpus.source in ("stdlib", "huggingface") or corpus.path is None or local_path(corpus.path) is None:
        return None
    try:
        paths = corpus_files(corpus)
        root = filesystem(corpus.path)[1]
        entries = []
        for path in paths:
            stat = os.stat(path)
            name = os.path.relpath(path, root) if path != root else os.path.basename(path)
            entries.append((name, path, stat.st_size, stat.st_mtime_ns))
    except (OSError, DataError):
        return None  # the error is reported when the corpus is read
    return _files_hash(tuple(entries)) if entries else None


def unpinned(experiment: Experiment) -> tuple[str, ...]:
    """Return one sentence for each of model and corpus that is read from the Hub without a pinned revision."""
    model, corpus = experiment.model, experiment.corpus
    found = []
    on_hub = model.name != "tiny" and not Path(model.name).expanduser().is_dir()
    if on_hub and model.revision in (None, "main"):
        found.append(f"model.revision does not pin '{model.name}': give a commit, for results that last")
    if corpus.source == "huggingface" and corpus.revision in (None, "main"):
        found.append(f"corpus.revision does not pin '{corpus.path}': give a commit, for results that last")
    return tuple(found)


@lru_cache(maxsize=4)
def _files_hash(entries: tuple[FileStamp, ...]) -> str:
    whole = sum(size for _, _, size, _ in entries) <= _WHOLE_BYTES
    step = 1 if whole else -(-len(entries) // _SAMPLED_FILES)
    looked_at = {entry[1] for entry in entries[::step]}
    return _digest(
        [name, size, _content_hash(path, None if whole else size) if path in looked_at else ""]
        for name, path, size, _ in entries
    )


def _content_hash(path: str, sampled: int | None) -> str:
    """Return the hash of a file, or of samples spread over it.

    Args:
        path: the file.
        sampled: size of the file in bytes to hash samples, its first and last bytes among them; None to hash all of it.
    """
    with open(path, "rb") as file:
        if sampled is None or sampled <= _SAMPLES * _SAMPLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for i in range(_SAMPLES):
            file.seek((sampled - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()


def _digest(parts: Iterable[list[object]]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
