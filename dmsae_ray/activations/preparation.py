"""Make a store, or find it made."""

import time
from collections.abc import Callable

from dmsae_ray.activations.files import Folder
from dmsae_ray.activations.harvest import check_space, harvest, read_commits
from dmsae_ray.activations.heartbeat import Heartbeat, Watch, other_writer
from dmsae_ray.activations.progress import Meter, Progress
from dmsae_ray.activations.records import (
    ACTIVATIONS,
    MANIFEST,
    PARTIAL,
    SPLITS,
    TOKENS,
    Commit,
    Layout,
    Split,
    encode,
    request_of,
    shard_name,
)
from dmsae_ray.activations.store import Store, open_store
from dmsae_ray.activations.token_files import read_layout
from dmsae_ray.activations.tokens import planned_layout, write_tokens
from dmsae_ray.config import Activations, Experiment
from dmsae_ray.errors import DataError

REQUEST = "request.json"


def prepare(experiment: Experiment, root: str, *, progress: Callable[[Progress], None] | None = None) -> Store:
    """Tokenise and harvest what the experiment asks for, as far as it is missing; returns the store.

    In mode 'stream' it then holds the held-out splits, and no more training shards than the norm factor needs.

    Needs a Ray cluster (`ray.init`) unless the store is complete. A killed call goes on where it stopped. While another
    process writes the same store, this one follows it, and takes over if it dies.

    Args:
        experiment: what to make.
        root: folder of stores, local or s3:// or gs://.
        progress: told of tokens and activations that are done.

    Raises:
        ConfigError: unknown model or layer, or an output that cannot be written; one line.
        DataError: a corpus too short or unreadable, a disk too small, activations not finite; one line.
    """
    store = open_store(root, experiment)
    folder = store.folder
    while True:
        if _whole(folder, experiment.activations):
            return open_store(root, experiment)
        folder.write(REQUEST, [encode({**request_of(experiment), "read_from": _names(experiment)})])
        if not other_writer(folder):
            break
        _follow(folder, progress)
    with Heartbeat(folder):
        if read_layout(folder) is None:  # before hours of tokenising; `harvest` looks again
            planned = planned_layout(experiment)
            check_space(folder, planned, experiment.activations, planned.stored_shards(experiment.activations))
        layout = write_tokens(folder, experiment, progress=progress)
        commits = harvest(folder, experiment, layout, progress=progress)
        partial = len(commits) < len(layout.all_shards())
        folder.write(PARTIAL if partial else MANIFEST, [encode(_manifest(experiment, layout, commits))])
        if not partial:
            folder.delete(PARTIAL)
    return open_store(root, experiment)


def _names(experiment: Experiment) -> dict[str, str | None]:
    """What a person calls the model and the text."""
    return {"model": experiment.model.name, "corpus": experiment.corpus.path or experiment.corpus.source}


def _manifest(experiment: Experiment, layout: Layout, commits: dict[tuple[Split, int], Commit]) -> dict[str, object]:
    shards = {
        split: [commits[item] for item in layout.all_shards() if item[0] == split and item in commits]
        for split in SPLITS
    }
    widths = sorted({commit.d_model for commit in commits.values()} | {layout.d_model})
    if len(widths) > 1:
        raise DataError(f"the store's shards have different widths {widths}: delete it and harvest again")
    return {
        "request": request_of(experiment),
        "layout": vars(layout),
        "shards": {split: [vars(commit) for commit in of_split] for split, of_split in shards.items()},
        "rows": {split: sum(commit.rows for commit in of_split) for split, of_split in shards.items()},
        "bytes": sum(commit.bytes for commit in commits.values()),
    }


def _whole(folder: Folder, settings: Activations) -> bool:
    """Whether the store has a manifest that will do and every file that it lists; a manifest that lies is removed."""
    manifests = (MANIFEST, PARTIAL) if settings.mode == "stream" else (MANIFEST,)
    return any(_holds(folder, manifest, settings) for manifest in manifests)


def _holds(folder: Folder, manifest: str, settings: Activations) -> bool:
    if folder.size(manifest) is None:
        return False
    layout = read_layout(folder)
    if layout is not None:
        wanted = layout.all_shards() if manifest == MANIFEST else layout.stored_shards(settings)
        token_files = (folder / TOKENS).sizes()
        tokens_there = all(f"{shard_name(*item)}.safetensors" in token_files for item in layout.all_shards())
        if tokens_there and read_commits(folder, layout).keys() >= set(wanted):
            return True
    folder.delete(manifest)
    return False


def _follow(folder: Folder, progress: Callable[[Progress], None] | None) -> None:
    """Wait while another harvest lives; returns when it is done or dead.

    Raises:
        DataError: it failed.
    """
    watch = Watch(folder)
    meter: Meter | None = None
    seen = 0
    while folder.size(MANIFEST) is None and watch.alive():
        reason = watch.failure()
        if reason is not None:
            raise DataError(f"store {folder}: the harvest that was followed failed: {reason}")
        layout = read_layout(folder)
        if layout is not None and progress is not None:
            names = (folder / ACTIVATIONS).sizes()
            done = sum(layout.shard_tokens(*i) for i in layout.all_shards() if f"{shard_name(*i)}.json" in names)
            meter = meter or Meter("activations", sum(layout.shard_tokens(*i) for i in layout.all_shards()), progress)
            meter.add(done - seen, 0)
            seen = done
        time.sleep(1.0)
