"""The command `dmsae store`: list, verify or remove stores of activations."""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.table import Table

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.exit_codes import EXIT_USAGE
from dmsae_ray.config import refuse_secrets
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import Folder
from dmsae_ray.store import CheckedFile, check_store, find_key, list_stores, remove_store, store_keys


def stores_of(output: str) -> Folder:
    """Return the folder of stores below an `output`.

    Raises:
        ConfigError: `output` contains a password or key.
    """
    refuse_secrets({"output": output})
    return Folder(output) / "stores"


def show(output: str) -> int:
    """Print a table of the stores; return the exit code."""
    root = stores_of(output)
    found = list_stores(root)
    with Screen() as screen:
        if not found:
            screen.say(f"no stores in {root}")
            return 0
        table = Table("key", "model", "layer", "corpus", "dtype", "tokens", "rows", "GB", "state", "written", "used")
        for store in found:
            table.add_row(
                store.key,
                store.model,
                store.layer,
                store.corpus,
                store.dtype,
                f"{store.tokens:,}",
                "" if store.rows is None else f"{store.rows:,}",
                f"{store.bytes / 1e9:,.3f}",
                store.state,
                _date(store.written),
                _date(store.used),
            )
        if not screen.console.is_terminal:
            screen.console.width = 240  # so that lines are whole for other programs
        screen.console.print(table)
        screen.say(f"{len(found)} stores in {root}, {sum(store.bytes for store in found) / 1e9:,.3f} GB")
    return 0


def verify(output: str, names: Sequence[str]) -> int:
    """Read every file of stores and compare it with its checksum or with the other files.

    Args:
        output: The `output` that holds the stores.
        names: Their keys, or how these begin; empty for all stores.

    Returns:
        The exit code: 2 if a file is damaged, else 0.
    """
    root = stores_of(output)
    chosen = _chosen(root, names) or store_keys(root)
    total = {store.key: store.bytes for store in list_stores(root)}
    damaged = 0
    with Screen() as screen:
        for key in chosen:
            files = done = bad = 0
            size = total.get(key, 0) or 1
            for found in _check(root / key):
                files, done = files + 1, done + found.bytes
                if found.error is not None:
                    bad += 1
                    screen.say(f"damaged: {found.error}")
                screen.bar(f"verify {key[:12]}", min(done, size) / 1e6, size / 1e6, "MB")
            screen.bar(f"verify {key[:12]}", 1, 1, "MB")
            screen.say(f"{key}: {files} files, {done / 1e9:,.3f} GB, {f'{bad} damaged' if bad else 'sound'}")
            damaged += bad
    return EXIT_USAGE if damaged else 0


def delete(output: str, names: Sequence[str], *, yes: bool) -> int:
    """Remove stores, after asking for each; return the exit code.

    Args:
        output: The `output` that holds the stores.
        names: Their keys, or how these begin.
        yes: Do not ask.

    Raises:
        ConfigError: A name fits no store or several, a store is being written or read, or nobody can be asked.
    """
    root = stores_of(output)
    chosen = _chosen(root, names)
    stores = {store.key: store for store in list_stores(root)}
    for key in chosen:
        store = stores[key]
        what = f"{key} ({store.model}, layer {store.layer}, {store.tokens:,} tokens, {store.bytes / 1e9:,.3f} GB)"
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError(f"store {what} is removed for good; say --yes where nobody can be asked")
            if input(f"remove {what}? [y/N] ").strip().lower() not in ("y", "yes"):
                print("kept")
                continue
        remove_store(root / key)
        print(f"removed {what}")
    return 0


def _check(store: Folder) -> Iterator[CheckedFile]:
    """Check a store; report one that cannot be read as damaged, so that the other stores are checked too."""
    try:
        yield from check_store(store)
    except DataError as error:
        yield CheckedFile(str(store), 0, str(error))


def _chosen(root: Folder, names: Sequence[str]) -> list[str]:
    """Return the keys of the named stores, each once."""
    return list(dict.fromkeys(find_key(root, name) for name in names))


def _date(when: datetime | None) -> str:
    return "" if when is None else f"{when.astimezone():%Y-%m-%d %H:%M}"
