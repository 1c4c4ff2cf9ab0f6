"""A dataset that `datasets.Dataset.save_to_disk` keeps: a folder of Arrow streams, listed in its state.json.

The folder of a `DatasetDict` holds dataset_dict.json and such a folder for each split.
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import fs

from dmsae_ray.config import CorpusSettings
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, filesystem

_STATE, _DICT = "state.json", "dataset_dict.json"
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What ends an Arrow stream. Without it pyarrow takes a file that is cut off between two batches for a whole one."""
_ROWS = 256


def saved_files(corpus: CorpusSettings) -> list[str]:
    """Return the files of the dataset in their order, as paths within the filesystem of `corpus.path`.

    Raises:
        DataError: the folder was not written by `save_to_disk`, has no such split, or orders its rows by an index.
    """
    folder, (_, path) = Folder(str(corpus.path)), filesystem(str(corpus.path))
    splits = _record(folder, _DICT, "splits", str)
    if splits is not None:
        if corpus.split not in splits:
            raise DataError(f"corpus.split is '{corpus.split}'; '{folder}' has {', '.join(splits) or 'no splits'}")
        folder, path = folder / corpus.split, f"{path}/{corpus.split}"
    files = _record(folder, _STATE, "_data_files", dict)
    if files is None:
        raise DataError(
            f"corpus.path '{folder}' has no {_STATE} and no {_DICT}; source 'arrow' reads a folder that `save_to_disk` "
            "of datasets wrote"
        )
    names = [item.get("filename") for item in files]
    for name in names:
        if not isinstance(name, str) or not name or "/" in name or "\\" in name:
            raise DataError(f"corpus.path: {folder / _STATE} lists the file {name!r}; it must be a name in that folder")
    return [f"{path}/{name}" for name in names]


def _record(folder: Folder, name: str, key: str, kind: type) -> list[Any] | None:
    """Return a list that a JSON file holds; None if there is no such file."""
    content = folder.read(name)
    if content is None:
        return None
    try:
        tree = json.loads(content)
        items, ordered = tree[key], tree.get("_indices_files") or tree.get("_indices_data_files")
        if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
            raise TypeError
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"corpus.path: {folder / name} is truncated or was not written by `save_to_disk`: no list '{key}'"
        ) from None
    if ordered:
        raise DataError(
            f"corpus.path: {folder / name} orders the rows by an index file, which is not read; save the dataset again "
            "after `flatten_indices()`"
        )
    return items


def arrow_columns(system: fs.FileSystem, path: str, name: str, check: Any) -> Iterator[pa.Array]:
    """Yield a column of an Arrow stream in pieces of at most 256 rows. A local file is mapped into memory, not read.

    Args:
        system: the filesystem of the file.
        path: its path there.
        name: the column.
        check: called with the schema before anything is read.

    Raises:
        OSError: the file is cut off or damaged; what stands before that is given first.
    """
    local = isinstance(system, fs.LocalFileSystem)
    with pa.memory_map(path) if local else system.open_input_file(path) as source:
        size = source.size()
        whole = size >= len(_END) and source.read_at(len(_END), size - len(_END)) == _END
        source.seek(0)
        with pa.ipc.open_stream(source) as stream:
            check(stream.schema)
            only = pa.ipc.IpcReadOptions(included_fields=[stream.schema.get_field_index(name)])
        source.seek(0)
        with pa.ipc.open_stream(source, options=only) as stream:
            for batch in stream:
                column = _sound(batch.column(0))
                for start in range(0, len(column), _ROWS):
                    yield column.slice(start, _ROWS)
        if not whole:
            raise EOFError("the file ends before the end of its stream")


def _sound(column: pa.Array) -> pa.Array:
    """Return a column whose offsets are within its buffers, which pyarrow does not check: it would read beyond them.

    Text is given as bytes, since one cell that is not UTF-8 is no reason to refuse the others.
    """
    plain = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    if column.type in plain:
        column = column.view(plain[column.type])
    column.validate(full=True)
    return column
