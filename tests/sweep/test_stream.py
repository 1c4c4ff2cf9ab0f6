"""A sweep in mode 'stream': the cores of mode 'store', no training activations on disk; its plan and its preflight."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from dmsae_ray.cli.trial_lines import TrialLines
from dmsae_ray.config.experiment import Experiment, load_experiment, parse_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan import cost
from dmsae_ray.plan.capacity import one_node
from dmsae_ray.plan.fit import check_fits, trials_at_once
from dmsae_ray.plan.model_size import KNOWN
from dmsae_ray.plan.plan import plan_experiment
from dmsae_ray.plan.rendering import plan_text
from dmsae_ray.results.folders import folders_of
from dmsae_ray.results.reports import TrialReport
from tests.small_sweep import Here, trained_cycles, write_config

SWEEPS = Path(__file__).parents[2] / "sweeps"


@pytest.mark.sweep
def test_streaming_trains_the_saes_of_the_store_and_a_killed_train_worker_changes_nothing(
    finished_sweep: Path, tmp_path: Path, dmsae_here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    tell = TrialLines.on_trial_result

    def kill_after_cycle_0(
        self: TrialLines, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        tell(self, iteration, trials, trial, result, **info)
        if not killed and TrialReport.from_metrics(result).cycles:
            killed.append(train_workers(os.getpid())[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(TrialLines, "on_trial_result", kill_after_cycle_0)
    config = write_config(tmp_path, sweep={"coverage": [0.3]}, distill={"cycles": 1, "controls": []})
    done = dmsae_here("sweep", config, "--set", "activations.mode=stream")
    assert done.returncode == 0, done.stdout + done.stderr
    assert killed
    # Cycle 1's key holds the rows of the core that was selected from cycle 0.
    trained, expected = trained_cycles(tmp_path), trained_cycles(finished_sweep)
    assert len(trained) == 2
    assert trained == {key: expected[key] for key in trained}
    (store,) = (tmp_path / "runs" / "stores").iterdir()
    # 10 shards of 4096 tokens; the norm factor is taken from 10,000 tokens.
    assert [path.name for path in sorted(store.glob("activations/train-*.safetensors"))] == [
        f"train-{i:06d}.safetensors" for i in range(3)
    ]
    assert not (store / "manifest.json").exists()


def train_workers(root: int) -> list[psutil.Process]:
    """The processes of Ray Train's workers in the cluster that process `root` started."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        try:
            if "RayTrainWorker" in process.name() or "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def streamed(**sections: Any) -> tuple[Experiment, Experiment]:
    """An experiment in mode 'store', and the same in mode 'stream'."""
    tree = {"name": "test", "model": {"name": "tiny", "layer": 1}, **sections}
    return parse_experiment(tree), parse_experiment({**tree, "activations": {"mode": "stream"}})


def test_no_result_depends_on_the_mode() -> None:
    store, stream = streamed()
    assert store.digest() == stream.digest() and folders_of(store) == folders_of(stream)


def test_a_plan_counts_a_model_pass_a_training_and_no_storage_for_it() -> None:
    path = SWEEPS / "figure6_sparsity.yaml"
    store, stream = (
        plan_experiment(load_experiment(path)),
        plan_experiment(load_experiment(path, ["activations.mode=stream"])),
    )
    e = load_experiment(path)
    a_token = cost.truncated_flops(KNOWN["google/gemma-2-2b"], e.model.layer, e.corpus.context)
    assert stream.flops.streaming == pytest.approx(store.training_tokens * a_token)
    # Four shards of 262,144 tokens are behind the norm factor.
    assert store.flops.harvest - stream.flops.harvest == pytest.approx((e.corpus.tokens - 4 * 262_144) * a_token)
    assert stream.flops.training == store.flops.training and store.flops.streaming == 0
    # Tokens of 4 bytes; positions and 2 bytes a number for what is stored.
    held_out = e.corpus.attribution_tokens + e.corpus.eval_tokens
    rows = 4 * 262_144 + held_out
    expected = 4 * (e.corpus.tokens + held_out) + rows * (4 + 2 * 2304) + e.corpus.attribution_tokens * 2 * 2304
    assert stream.storage.activations == expected < 0.01 * store.storage.activations
    text = plan_text(stream)
    assert (
        "500M streamed to every training" in text
        and f"streaming {stream.flops.streaming:.2g}" in text
        and "harvested once" not in text
    )
    assert "holds up to 38.7 GB in Ray's object store" in text  # 2 x 16 shards of 262,144 rows of 4 + 2 * 2304 bytes


def test_a_trial_needs_its_pool_as_well() -> None:
    store, stream = streamed(resources={"model_actors_min": 2, "model_actors_max": 2, "gpus_per_model_actor": 0.5})
    # A worker, two model actors and the language model of the sweep, at 1 CPU each.
    check_fits(plan_experiment(store), one_node(3.0, 1.0))
    check_fits(plan_experiment(stream), one_node(4.0, 1.5))
    with pytest.raises(ConfigError, match=r"^a trial needs 4 CPU \+ 1.5 GPU .*2 x its language-model actor") as error:
        check_fits(plan_experiment(stream), one_node(3.9, 2.0))
    assert "\n" not in str(error.value)
    two = stream.model_copy(update={"sweep": stream.sweep.model_copy(update={"seeds": (0, 1)})})
    assert trials_at_once(plan_experiment(two), one_node(6.9, 4.0)) == 1
    assert trials_at_once(plan_experiment(two), one_node(7.0, 4.0)) == 2
