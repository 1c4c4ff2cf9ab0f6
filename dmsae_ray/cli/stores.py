"""`dmsae store`: what stores of activations there are, whether they are sound, and away with them."""

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
    """The folder of stores below an `output`."""
    refuse_secrets({"output": output})
    return Folder(output) / "stores"


def show(output: str) -> int:
    """List the stores."""
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
            screen.console.width = 240  # whole lines for other programs
        screen.console.print(table)
        screen.say(f"{len(found)} stores in {root}, {sum(store.bytes for store in found) / 1e9:,.3f} GB")
    return 0


def verify(output: str, names: Sequence[str]) -> int:
    """Read stores, all by default, and compare each file with what others say; exit code 2 where one is damaged."""
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
    """Remove stores, after asking; refused while one is written or read."""
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
    """As `check_store`; that a store cannot be read is told like a damage, so that the others are checked too."""
    try:
        yield from check_store(store)
    except DataError as error:
        yield CheckedFile(str(store), 0, str(error))


def _chosen(root: Folder, names: Sequence[str]) -> list[str]:
    """Keys of the stores that are named, each once."""
    return list(dict.fromkeys(find_key(root, name) for name in names))


def _date(when: datetime | None) -> str:
    return "" if when is None else f"{when.astimezone():%Y-%m-%d %H:%M}"
