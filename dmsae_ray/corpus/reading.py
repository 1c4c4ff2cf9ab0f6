"""Documents of any source in one fixed order, read lazily.

`list_units` returns what can be read independently (files, or the shards of a Hub dataset); `read_unit` reads one unit.
In place of a document that cannot be used stands its reason (`Skipped`), so that it is counted with the tokens. From a
Hub dataset the library `datasets` reads whole pieces of a file, so one damaged document is an error there; the sources
'parquet' and 'jsonl' skip it.
"""

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from dmsae_ray.config import CorpusSettings
from dmsae_ray.corpus.conversation import conversation
from dmsae_ray.corpus.formats import READERS, SUFFIXES, check_schema, corpus_files
from dmsae_ray.corpus.skipped import Skipped
from dmsae_ray.errors import ConfigError, DataError, DmsaeError
from dmsae_ray.files import (
    HUB,
    Folder,
    call_with_retries,
    is_server_error,
    iterate_with_retries,
    local_path,
    root_message,
)
from dmsae_ray.lm import split_documents, stdlib_documents

_FILES_PER_UNIT = {"text": 64}
_MOST_SCHEMAS = 1000
_STDLIB_ORDER = 0x57D11B
_DAMAGE = (OSError, EOFError, zlib.error, pa.ArrowException, ValueError)

Answer = TypeVar("Answer")


def check_corpus(corpus: CorpusSettings) -> None:
    """Check that there is text at `corpus.path`. A Hub dataset is not checked, since that needs the network.

    Raises:
        ConfigError: source 'huggingface' names something on this machine.
        DataError: there is no text, or it cannot be listed.
    """
    if corpus.source == "huggingface":
        check_is_on_hub(corpus)
    else:
        list_units(corpus)


def check_is_on_hub(corpus: CorpusSettings) -> None:
    """Refuse what `load_dataset` would read from this machine: a store's key says nothing of such files' content.

    Raises:
        ConfigError: source 'huggingface' names something on this machine, or no dataset of the Hub.
    """
    name = str(corpus.path)
    if Path(name).expanduser().exists() or name.startswith(("/", "./", "../", "~", "file:")):
        problem = "which is on this machine"
    elif _is_builder(name):
        problem = "by which `load_dataset` reads files of this machine"
    elif not _is_hub_id(name):
        problem = "which is no id of a dataset on the Hub, as 'monology/pile-uncopyrighted' is"
    else:
        return
    raise ConfigError(
        f"corpus.path is '{corpus.path}', {problem}; source 'huggingface' reads the Hub: give corpus.source=parquet, "
        "jsonl, text, or arrow for a folder that `save_to_disk` wrote"
    )


def _is_builder(name: str) -> bool:
    """Return whether `datasets` has a reader of this name, as 'json': it takes files of the folder where it runs."""
    found = find_spec("datasets")
    places = found.submodule_search_locations if found is not None else None
    return name.isidentifier() and any((Path(place) / "packaged_modules" / name).is_dir() for place in places or ())


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in its __all__

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def list_units(corpus: CorpusSettings) -> list[dict[str, Any]]:
    """Return what can be read independently, in order: groups of files, or shards of a Hub dataset.

    Raises:
        DataError: the corpus cannot be listed or opened, or has no file of its source.
    """
    if corpus.source == "stdlib":
        return [{}]
    assert corpus.path is not None  # config.CorpusSettings refuses it
    if corpus.source == "huggingface":
        count = int(getattr(_asked(corpus, "opened", partial(_open_hub, corpus)), "num_shards", 1) or 1)
        return [{"shard": i, "of": count} for i in range(count)]
    files = _asked(corpus, "listed", partial(corpus_files, corpus))
    if not files:
        wanted = ", ".join(SUFFIXES.get(corpus.source, (".arrow",)))
        raise DataError(f"{_what(corpus)} has no file of source '{corpus.source}' ({wanted})")
    step = _FILES_PER_UNIT.get(corpus.source, 1)
    return [{"files": files[i : i + step]} for i in range(0, len(files), step)]


def read_unit(corpus: CorpusSettings, unit: dict[str, Any]) -> Iterator[str | Skipped]:
    """Yield the documents of a unit in order; the reason in place of one that is skipped.

    A document is its text, or a `Conversation` where `corpus.text_field` holds messages.

    Args:
        corpus: the settings.
        unit: one item of `list_units`.

    Raises:
        DataError: a file is damaged, or has another format than the corpus says.
        TransientError: its server did not answer for too long; the harvest reads on from there, some times.
    """
    if corpus.source == "stdlib":
        yield from map(_usable, _stdlib())
    elif corpus.source == "huggingface":
        what = _what(corpus)
        values = iterate_with_retries(partial(_read_hub, corpus, unit), what, _server(corpus))
        damaged = (
            "has a damaged file, and source 'huggingface' cannot skip a document within a file ('parquet' and 'jsonl' "
            "can, with the path hf://datasets/...)"
        )
        yield from map(_usable, _checked(values, what, damaged, (Exception,)))
    else:
        read = READERS[corpus.source]
        for path in unit["files"]:
            what = f"corpus file '{path}'"
            values = iterate_with_retries(partial(read, corpus, path), what, _server(corpus))
            yield from map(_usable, _checked(values, what, "is truncated or of another format", _DAMAGE))


def _what(corpus: CorpusSettings) -> str:
    return f"corpus.path '{Folder(str(corpus.path))}'"


def _server(corpus: CorpusSettings) -> str:
    """Return the name of the server behind the path, for messages."""
    scheme = str(corpus.path).partition("://")[0]
    return HUB if corpus.source == "huggingface" or scheme == "hf" else scheme


def _asked(corpus: CorpusSettings, verb: str, ask: Callable[[], Answer]) -> Answer:
    """Return `ask()`, repeated after outages.

    Raises:
        DataError: it failed; one line that names `corpus.path`.
    """
    try:
        return call_with_retries(ask, _what(corpus), _server(corpus))
    except DmsaeError:
        raise
    except Exception as error:
        raise DataError(f"{_what(corpus)} cannot be {verb}: {root_message(error)}") from None


def _checked(values: Iterator[Any], what: str, damaged: str, errors: tuple[type[Exception], ...]) -> Iterator[Any]:
    """Yield the values, and turn an error of the reading into one line.

    Raises:
        DataError: one of `errors` was raised: the place cannot be reached, or else the `damaged` text applies.
    """
    count = 0
    try:
        for value in values:
            count += 1
            yield value
    except DmsaeError:
        raise
    except errors as error:
        problem = "cannot be read" if is_server_error(error) else damaged
        raise DataError(f"{what} {problem}, behind document {count}: {root_message(error)}") from None


def first_document(corpus: CorpusSettings) -> str | Skipped | None:
    """Return the first document of files on this machine; None if there is none here: nothing is fetched.

    Raises:
        DataError: the corpus cannot be listed, or its first file is damaged or has another format.
    """
    return next(iter(first_documents(corpus, 1)), None)


def first_documents(corpus: CorpusSettings, count: int) -> list[str | Skipped]:
    """Return at most `count` documents of the first file on this machine; none if it is not here.

    Raises:
        DataError: the corpus cannot be listed, or its first file is damaged or has another format.
    """
    if corpus.source in ("stdlib", "huggingface") or local_path(str(corpus.path)) is None:
        return []
    return list(islice(read_unit(corpus, list_units(corpus)[0]), count))


def check_schemas(corpus: CorpusSettings) -> None:
    """Check the schemas of the files of a corpus, of at most a thousand; see `check_schema`.

    Raises:
        DataError: a file is damaged, or has no column of text under `corpus.text_field`; one line.
    """
    paths = corpus_files(corpus)
    for path in paths[:: -(-len(paths) // _MOST_SCHEMAS) or 1]:
        try:
            check_schema(corpus, path)
        except _DAMAGE as error:
            problem = "cannot be read" if is_server_error(error) else "is truncated or of another format"
            raise DataError(f"corpus file '{path}' {problem}: {root_message(error)}") from None


def _usable(value: Any) -> str | Skipped:
    """Return a document: its text, or a conversation; else why it is skipped. Half a surrogate pair is no UTF-8."""
    if isinstance(value, Skipped):
        return value
    if value is None or value == "" or value == []:
        return Skipped.EMPTY
    if isinstance(value, list):
        value = conversation(value)
    if not isinstance(value, str):
        return Skipped.NOT_TEXT
    try:
        value.encode()
    except UnicodeEncodeError:
        return Skipped.ENCODING
    return value


def _stdlib() -> Iterator[str]:
    """Yield first the documents that the embedded model was not trained on: the held-out tokens come from there."""
    trained, held_out = split_documents(stdlib_documents())
    for texts in (held_out, trained):
        # A fixed permutation, to mix help topics and docstrings, which are different kinds of text.
        for i in np.argsort(np.random.Philox(key=_STDLIB_ORDER).random_raw(len(texts)), kind="stable"):
            yield texts[i]


def _open_hub(corpus: CorpusSettings) -> Any:
    """Return the streaming dataset of a Hub id."""
    from datasets import load_dataset

    return load_dataset(str(corpus.path), corpus.subset, split=corpus.split, revision=corpus.revision, streaming=True)


def _read_hub(corpus: CorpusSettings, unit: dict[str, Any]) -> Iterator[Any]:
    dataset = _open_hub(corpus).shard(num_shards=unit["of"], index=unit["shard"])
    for row in dataset:
        if corpus.text_field not in row:
            raise DataError(f"corpus.text_field is '{corpus.text_field}'; the dataset has {', '.join(row)}")
        yield row[corpus.text_field]
