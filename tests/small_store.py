"""A small real store, made once: the embedded Gemma-2, the standard library's text, Ray Data."""

import copy
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.files.checksums import checksum
from dmsae_ray.harvest.preparation import prepare as harvest_prepare
from dmsae_ray.store.identity import store_key
from dmsae_ray.store.layout import ACTIVATIONS, MANIFEST, TOKENS
from dmsae_ray.store.reader import Store
from dmsae_ray.store.timing import StoreTiming

TREE: dict[str, Any] = {
    "name": "activations-test",
    "model": {"name": "tiny", "layer": 1, "dtype": "float32"},
    "corpus": {"source": "stdlib", "context": 64, "tokens": 20_000, "attribution_tokens": 2_000, "eval_tokens": 1_000},
    "activations": {"shard_tokens": 2_048, "shuffle_shards": 3, "norm_tokens": 5_000, "dtype": "float32"},
    "recipe": {"tokens": 4_096, "batch_size": 256, "warmup_steps": 1, "threshold_start_step": 1},
    "resources": {"model_batch_tokens": 1_024, "model_actors_max": 1},
}

Make = Callable[..., Experiment]

FAST = StoreTiming(beat=0.1, silence=20.0, settle=0.1, poll=0.05, usage_beat=0.1)
"""Where nothing but this machine's own processes is at work on a store."""
prepare = partial(harvest_prepare, timing=FAST)


@pytest.fixture(scope="session")
def make_experiment() -> Make:
    """Builds an experiment from the small tree, with `section__field=value` changes."""

    def make(**changes: Any) -> Experiment:
        tree = copy.deepcopy(TREE)
        for name, value in changes.items():
            section, _, field = name.partition("__")
            tree[section][field] = value
        return parse_experiment(tree)

    return make


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def store(ray_cluster: Any, make_experiment: Make, stores: Path) -> Store:
    """Made by two model actors; what other tests make, by one, is compared with it."""
    return prepare(make_experiment(resources__model_actors_max=2), str(stores))


def copy_tokens(store: Store, experiment: Experiment, root: Path) -> Path:
    """Give another experiment's store in `root` the tokens of this store, so that they need not be made again."""
    folder = root / store_key(experiment)
    shutil.copytree(Path(store.folder.uri) / TOKENS, folder / TOKENS)
    return folder


def unfinished(store: Store, root: Path, *missing: str) -> Path:
    """A copy of a store in `root` as a killed harvest leaves it: these shards of activations are missing, or all."""
    folder = root / store.key
    shutil.copytree(store.folder.uri, folder, ignore=shutil.ignore_patterns(MANIFEST))
    for path in (folder / ACTIVATIONS).iterdir():
        if path.stem in missing or not missing:
            path.unlink()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def recommit(path: Path) -> None:
    """Make the checksum right again, so that only what the shard holds is wrong."""
    manifest = json.loads((path.parent.parent / "manifest.json").read_text())
    commit = manifest["shards"]["train"][int(path.stem.rpartition("-")[2])]
    commit["checksum"] = checksum(path.read_bytes())
    commit["bytes"] = path.stat().st_size
    manifest.pop("record_checksum", None)
    (path.parent.parent / "manifest.json").write_text(json.dumps(manifest))


FALSE_MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "fewer shards": lambda tree: tree["shards"]["train"].pop(),
    "other squares": lambda tree: tree["shards"]["train"][1].update(sum_squares=1e9),
    "a commit that is a number": lambda tree: tree["shards"]["train"].__setitem__(1, 5),
    "shards by name": lambda tree: tree["shards"].update(train={"a": 1}),
    "other rows": lambda tree: tree["rows"].update(train=1),
    "no rows": lambda tree: tree.update(rows=None),
    "other layout": lambda tree: tree["layout"].update(context=32),
    "other request": lambda tree: tree["request"].update(model="x"),
    "other token bytes": lambda tree: tree["token_bytes"].popitem(),
    "other norm factor": lambda tree: tree["norm"].update(factor=1.0),
    "norm of other tokens": lambda tree: tree["norm"].update(tokens=0),
    "no norm": lambda tree: tree.pop("norm"),
}
"""Ways in which a manifest may say what is not so."""


def falsify(manifest: Path, how: str) -> None:
    """Change a manifest in one of these ways, as if it were of a version that gave it no checksum of itself."""
    tree = json.loads(manifest.read_text())
    tree.pop("record_checksum")
    FALSE_MANIFESTS[how](tree)
    manifest.write_text(json.dumps(tree))
