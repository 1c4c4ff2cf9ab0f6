"""Prepare a store: find it complete, make what is missing, or follow another harvest that makes it."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from dmsae_ray.config import ActivationSettings, Experiment
from dmsae_ray.errors import DataError, TransientError
from dmsae_ray.files import PATIENCE_SECONDS, Folder, encode_record, encode_sealed, patience
from dmsae_ray.harvest.harvesting import check_space, harvest
from dmsae_ray.harvest.progress import HarvestProgress, Meter
from dmsae_ray.harvest.tokenising import planned_layout, write_tokens
from dmsae_ray.store import (
    ACTIVATIONS,
    HEARTBEAT,
    MANIFEST,
    PARTIAL,
    REQUEST,
    TIMING,
    Store,
    StoreTiming,
    StoreWriter,
    WriterWatch,
    check_manifest,
    make_manifest,
    open_store,
    read_commits,
    read_layout,
    request_of,
    shard_name,
)

log = logging.getLogger(__name__)

OnProgress = Callable[[HarvestProgress], None]
T = TypeVar("T")

_LOSSES = 10


def prepare(
    experiment: Experiment,
    root: str,
    *,
    progress: Callable[[HarvestProgress], None] | None = None,
    timing: StoreTiming = TIMING,
) -> Store:
    """Tokenise and harvest what is missing of the experiment's store, and return the store.

    In mode 'stream' the store then holds the held-out splits, and of the training shards only those behind the norm
    factor.

    This needs a Ray cluster (`ray.init`) unless the store is complete. A killed call continues where it stopped. While
    another process writes the same store, this one follows it, and takes over if it dies.

    Args:
        experiment: what to make.
        root: folder of stores, as local path or URI (s3://, gs://).
        progress: called with the tokens and activations that are done.
        timing: how often this harvest beats, and how long it waits for another.

    Returns:
        The store.

    Raises:
        ConfigError: the model or layer is unknown, or the output cannot be written; one line.
        DataError: the corpus is too short or unreadable, the disk too small, or an activation not finite; one line.
    """
    folder, settings, request = open_store(root, experiment).folder, experiment.activations, request_of(experiment)
    while True:
        if _whole(folder, settings):
            return open_store(root, experiment)
        folder.write(REQUEST, [encode_record({**request, "read_from": _names(experiment)})])
        writer = StoreWriter(folder, timing)
        if writer.take_over():
            break
        _follow(folder, settings, progress, timing)
    with patience(PATIENCE_SECONDS), writer:
        if read_layout(folder) is None:  # check the disk before hours of tokenising; `harvest` checks it again
            planned = planned_layout(experiment)
            there = read_commits(folder, planned)
            missing = [item for item in planned.stored_shards(settings) if item not in there]
            check_space(folder, planned, settings, missing)
        layout = _through_losses(lambda tell: write_tokens(folder, experiment, progress=tell), progress)
        commits = _through_losses(lambda tell: harvest(folder, experiment, layout, progress=tell), progress)
        partial = len(commits) < len(layout.all_shards())
        if partial:
            commits = {item: commits[item] for item in layout.stored_shards(settings)}
        manifest = make_manifest(folder, request, layout, commits, settings.norm_tokens)
        folder.write(PARTIAL if partial else MANIFEST, [encode_sealed(manifest)])
        if not partial:
            folder.delete(PARTIAL)
    return open_store(root, experiment)


def _through_losses(stage: Callable[[OnProgress], T], progress: OnProgress | None) -> T:
    """Run a stage, and run it again where something was lost on the way; it goes on behind what is written.

    Args:
        stage: the stage; it takes the function that it calls with its progress.
        progress: is told the progress, too.

    Raises:
        DataError: something was lost `_LOSSES` times in a row before the stage came any further.
    """
    losses, done, farthest = 0, 0, 0

    def tell(state: HarvestProgress) -> None:
        nonlocal done
        done = state.done
        if progress is not None:
            progress(state)

    while True:
        try:
            return stage(tell)
        except TransientError as error:
            losses = 1 if done > farthest else losses + 1
            farthest = max(done, farthest)
            if losses >= _LOSSES:
                raise DataError(f"{error}; this happened {losses} times without any progress between") from None
            log.warning("%s; it goes on", error)
            time.sleep(min(2.0**losses, 60.0))


def _names(experiment: Experiment) -> dict[str, str | None]:
    """Return the names that a person uses for the model and the text."""
    return {"model": experiment.model.name, "corpus": experiment.corpus.path or experiment.corpus.source}


def _whole(folder: Folder, settings: ActivationSettings) -> bool:
    """Return whether the store has a suitable manifest and all files that it lists; remove a manifest that is wrong."""
    manifests = (MANIFEST, PARTIAL) if settings.mode == "stream" else (MANIFEST,)
    return any(_holds(folder, manifest, settings) for manifest in manifests)


def _holds(folder: Folder, manifest: str, settings: ActivationSettings) -> bool:
    if folder.size(manifest) is None:
        return False
    layout = read_layout(folder)
    if layout is not None:
        commits = read_commits(folder, layout)
        try:
            listed = check_manifest(folder, manifest, layout, commits).listed
            if set(listed) >= set(layout.stored_shards(settings)):
                return True
        except DataError as error:
            log.warning("%s", error)
    folder.delete(manifest)
    return False


def _follow(
    folder: Folder,
    settings: ActivationSettings,
    progress: Callable[[HarvestProgress], None] | None,
    timing: StoreTiming,
) -> None:
    """Wait while another harvest is alive; return when it is done or dead.

    Raises:
        DataError: the other harvest failed.
    """
    watch = WriterWatch(folder, timing.silence)
    meter: Meter | None = None
    seen = 0
    while True:
        at_work = folder.size(HEARTBEAT) is not None and watch.alive()  # first: a harvest leaves its reason, then ends
        reason = watch.failure()
        if reason is not None:
            raise DataError(f"store {folder}: the harvest that was followed failed: {reason}")
        layout = read_layout(folder)
        if layout is not None and progress is not None:
            names = (folder / ACTIVATIONS).sizes()
            wanted = {shard_name(*item): layout.shard_tokens(*item) for item in layout.stored_shards(settings)}
            done = sum(tokens for name, tokens in wanted.items() if f"{name}.json" in names)
            if meter is None:
                meter, seen = Meter("activations", sum(wanted.values()), progress, done=done), done
            meter.add(done - seen, 0)
            seen = done
        if not at_work:
            return
        time.sleep(timing.poll)
