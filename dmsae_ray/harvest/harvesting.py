"""The missing activations of a store, computed and written by an autoscaling pool of model actors (Ray Data).

One row of the Ray Dataset is the name of one shard. The actor reads the tokens, runs the language model, filters the
rows, and writes the shard and then its commit; only the name and the commit pass through Ray. A shard has the same
bytes whoever writes it, and whenever: an actor that dies, or a second harvest of the same store, changes nothing.
"""

import json
from collections.abc import Callable

from dmsae_ray.config import ActivationSettings, Experiment
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder
from dmsae_ray.harvest.actors import GROWING, HarvestActor, HarvestJob, map_shards
from dmsae_ray.harvest.attempts import start_attempts
from dmsae_ray.harvest.progress import HarvestProgress, Meter
from dmsae_ray.harvest.ray_data import first_error, free_actors, quiet_context
from dmsae_ray.store import TOKENS, Commits, Layout, Split, read_commits

_ROUNDS = 3  # attempts at shards that the actors reported but the driver cannot find


def check_space(folder: Folder, layout: Layout, settings: ActivationSettings, missing: list[tuple[Split, int]]) -> None:
    """Check that a local disk has room for what is still to be written.

    Args:
        folder: the store's folder.
        layout: how the tokens are cut.
        settings: dtype of the activations.
        missing: the shards still to be written.

    Raises:
        DataError: it has not; the message names the needed and the free bytes.
    """
    free = folder.free_bytes()
    x_bytes = 4 if settings.dtype == "float32" else 2
    bytes_of = {
        "eval": x_bytes,
        "attribution": x_bytes + (2 if settings.dtype in ("bfloat16", "int8") else 4),
        "train": 1 if settings.dtype == "int8" else x_bytes,
    }
    need = sum(layout.shard_tokens(split, shard) * (layout.d_model * bytes_of[split] + 8) for split, shard in missing)
    tokens = 4 * sum(layout.shard_tokens(*item) for item in layout.all_shards())
    need += max(0, tokens - sum((folder / TOKENS).sizes().values()))
    if free is not None and need > free:
        raise DataError(
            f"output {folder} needs {_bytes(need)} more for tokens and activations, the disk has {_bytes(free)} free; "
            "ask for fewer corpus.tokens or another output"
        )


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def harvest(
    folder: Folder, experiment: Experiment, layout: Layout, *, progress: Callable[[HarvestProgress], None] | None = None
) -> Commits:
    """Compute the missing shards of those to be stored, and return the commits of all shards in the store.

    Args:
        folder: the store's folder; its token shards are complete.
        experiment: its sections model, activations and resources are used.
        layout: how the tokens are cut.
        progress: called as shards are finished.

    Raises:
        DataError: the disk is too small, an activation is not finite, the driver cannot see what the actors wrote, or
            another error of an actor, in one line.
        ConfigError: the model cannot be loaded, or the output cannot be written.
    """
    # The split that needs the whole model comes first, so that an actor changes its model only once.
    wanted = sorted(layout.stored_shards(experiment.activations), key=lambda item: item[0] != "attribution")
    done = read_commits(folder, layout)
    total = sum(layout.shard_tokens(*item) for item in wanted)
    meter = Meter("activations", total, progress, done=sum(done[item].tokens for item in wanted if item in done))
    batch = experiment.resources.model_batch_tokens
    for _ in range(_ROUNDS):
        missing = [item for item in wanted if item not in done]
        if not missing:
            return done
        job = HarvestJob(folder, layout, experiment.model, experiment.activations, batch, start_attempts())
        check_space(folder, layout, experiment.activations, missing)
        with quiet_context(preserve_order=False, autoscaling_config=GROWING), first_error("harvest"):
            for row in map_shards(HarvestActor, job, experiment.resources, missing).iter_rows():
                commit = json.loads(row["commit"])
                meter.add(commit["tokens"], commit["bytes"])
        free_actors()
        done = read_commits(folder, layout)
    raise DataError(
        f"output {folder}: shards that model actors wrote cannot be seen by the driver; on several machines `output` "
        "must be a folder that all share, or an object store"
    )
