"""What a person gets wrong, told by the command line: one line that names the field, its value and what is allowed."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from dmsae_ray.cli.commands import main
from dmsae_ray.config.experiment import load_experiment, parse_experiment
from dmsae_ray.distill.core import Core, save_core
from dmsae_ray.distill.lineage import LineageId
from dmsae_ray.lm.tiny import tiny_model
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.dictionary_learning import load_dictionary_learning
from dmsae_ray.sae.files import save_sae
from dmsae_ray.sae.saelens import export_saelens
from tests.small_sweep import SMALL, Here, write_config

REPOSITORY = Path(__file__).parents[2]
Refuse = Callable[..., str]


@pytest.fixture
def refuse(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Refuse:
    """Run a command, in the test's folder, that must be refused before Ray starts; its error line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", started)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # without a network it tries for long

    def run(*arguments: object) -> str:
        assert main([str(a) for a in arguments]) == 2
        err = capfd.readouterr().err.splitlines()
        assert len(err) == 1 and err[0].startswith("dmsae: error: "), err
        return err[0].removeprefix("dmsae: error: ")

    return run


def test_an_option_that_is_none_is_named_and_a_setting_is_told_how_to_be_given(tmp_path: Path, refuse: Refuse) -> None:
    config = write_config(tmp_path)
    said = "'--output' is not an option of dmsae sweep; `dmsae sweep --help` lists them"
    assert refuse("sweep", config, "--output", "/x") == f"{said}; a setting is given as --set output=VALUE"
    assert refuse("sweep", config, "--sae.k=3").endswith("; a setting is given as --set sae.k=VALUE")
    assert refuse("ui", tmp_path, "--fast") == "'--fast' is not an option of dmsae ui; `dmsae ui --help` lists them"
    # The beginning of an option is not the option: `--seed` of a command with `--seeds` is a mistake.
    said = "'--eval' is not an option of dmsae eval; `dmsae eval --help` lists them"
    assert refuse("eval", tmp_path, "--eval", "core") == said
    assert refuse("groundtruth", "--seed", "1").startswith("'--seed' is not an option of dmsae groundtruth; ")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.name=no/such-model", ["model.name", "no/such-model", "tiny"]),
        ("model.name=/no/such/folder", ["model.name", "/no/such/folder"]),
        ("model.layer=4", ["model.layer", "4", "0..3"]),
        ("sae.k=256", ["sae.k", "256"]),
        ("sweep.k=[8,300]", ["sweep.k", "300", "256"]),
        ("sweep.coverage=[0.5,1.5]", ["sweep.coverage", "1.5", "(0, 1]"]),
        ("distill.coverage=0", ["distill.coverage", "0", "(0, 1]"]),
        ("sae.group_sizes=[64,64,64]", ["sae.group_sizes", "192", "256"]),
        ("distill.initial_sae=/no/such/sae", ["distill.initial_sae", "/no/such/sae", "config.json"]),
        ("recipe.lrr=1", ["recipe.lrr", "lr"]),
        ("recipe.lr=fast", ["recipe.lr", "fast"]),
        ("resources.cpus_per_worker=0", ["resources.cpus_per_worker", "0"]),
        ("sweep.seeds=[18446744073709551616]", ["sweep.seeds", "18446744073709551616"]),
        ("corpus.context=4096", ["corpus.context", "4096", "tiny", "64"]),
        ("output=", ["output"]),
        ("corpus={source: text, path: nowhere, context: 64}", ["corpus.path", "nowhere"]),
    ],
)
def test_a_bad_setting_is_refused(override: str, said: list[str], tmp_path: Path, refuse: Refuse) -> None:
    line = refuse("sweep", write_config(tmp_path), "--set", override)
    for word in said:
        assert word in line, line
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_not_there(tmp_path: Path, refuse: Refuse) -> None:
    assert str(tmp_path / "none.yaml") in refuse("sweep", tmp_path / "none.yaml")
    assert "config.yaml" in refuse("resume", tmp_path)


def test_an_initial_sae_of_another_width(tmp_path: Path, refuse: Refuse) -> None:
    save_sae(MatryoshkaSAE(32, 64, [32, 32], 4), tmp_path / "sae")
    line = refuse("sweep", write_config(tmp_path), "--set", f"distill.initial_sae={tmp_path / 'sae'}")
    assert "distill.initial_sae" in line and "32" in line and "64" in line


@pytest.mark.parametrize("content", ["5", "null", "[", '{"trainer": 3}', '{"n_core": -1}'])
def test_an_initial_sae_that_is_none(content: str, tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "config.json").write_text(content)
    line = refuse("sweep", write_config(tmp_path), "--set", "distill.initial_sae=sae")
    assert line.startswith("distill.initial_sae is ") and "config.json" in line


def test_an_initial_sae_of_saelens_that_is_no_batchtopk(tmp_path: Path, refuse: Refuse) -> None:
    sae = MatryoshkaSAE(64, 64, [64], 4)
    export_saelens(sae, tmp_path / "sae", "tiny", "blocks.1.hook_resid_post")
    config = tmp_path / "sae" / "cfg.json"
    config.write_text(config.read_text().replace('"jumprelu"', '"standard"'))
    line = refuse("sweep", write_config(tmp_path), "--set", "distill.initial_sae=sae")
    assert line.startswith("distill.initial_sae is ") and "architecture is 'standard', must be 'jumprelu'" in line


@pytest.mark.parametrize(
    ("saved", "given", "more", "said"),
    [
        ((256, [64, 64, 128], 4), "sae", [], ["is 'HERE/sae', of k = 4", "sae.k asks for 8", "initial_sae_any_k=true"]),
        ((256, [64, 64, 128], 8), "sae", ["sweep.k=[8,16]"], ["of k = 8", "sweep.k asks for 16"]),
        ((256, [64, 64, 128], 8), "{8: sae}", ["sweep.k=[8,16]"], ["SAEs for k = 8; sweep.k asks for 16"]),
        ((256, [64, 64, 128], 8), "{8: sae, 16: sae}", ["sweep.k=[8,16]"], ["distill.initial_sae.16 is", "of k = 8"]),
        ((128, [64, 64], 8), "{8: sae}", [], ["distill.initial_sae.8 is", "128 latents", "sae.n_latents = 256"]),
        ((256, [64, 32, 160], 8), "sae", [], ["groups [64, 32, 160]", "[64, 64, 128]"]),
        (
            (256, [64, 64, 128], 8),
            "{a: sae}",
            [],
            ['distill.initial_sae is {"a": "sae"}', "a mapping from k to folder"],
        ),
        ((256, [64, 64, 128], 8), "[sae]", [], ["distill.initial_sae is", "a mapping from k to folder"]),
    ],
)
def test_an_initial_sae_is_checked_for_every_k(
    saved: tuple[int, list[int], int], given: str, more: list[str], said: list[str], tmp_path: Path, refuse: Refuse
) -> None:
    save_sae(MatryoshkaSAE(64, *saved), tmp_path / "sae")
    settings = [part for text in (f"distill.initial_sae={given}", *more) for part in ("--set", text)]
    line = refuse("sweep", write_config(tmp_path), *settings)
    for words in said:
        assert words.replace("HERE", str(tmp_path)) in line, line


def test_an_initial_sae_with_fewer_groups_than_the_pool(tmp_path: Path, refuse: Refuse) -> None:
    save_sae(MatryoshkaSAE(64, 64, [64], 4), tmp_path / "sae")
    settings = ("--set", "distill.initial_sae=sae", "--set", "distill.pool_groups=2")
    line = refuse("sweep", write_config(tmp_path), *settings)
    assert "distill.pool_groups is 2" in line and "1 groups" in line


def test_a_core_that_is_missing_or_of_another_width(tmp_path: Path, refuse: Refuse) -> None:
    config = write_config(tmp_path)
    assert "transfer.core" in refuse("transfer", config)
    assert "core.safetensors" in refuse("transfer", config, "--core", tmp_path / "core.safetensors")
    save_core(Core(torch.ones(2, 32), (LineageId(0, 0), LineageId(0, 1))), tmp_path / "core.safetensors")
    line = refuse("transfer", config, "--core", tmp_path / "core.safetensors")
    assert "32" in line and "64" in line
    for rows in (0, 300):
        lineage = tuple(LineageId(0, i) for i in range(rows))
        save_core(Core(torch.ones(rows, 64), lineage), tmp_path / "core.safetensors")
        line = refuse("transfer", config, "--core", tmp_path / "core.safetensors")
        assert "transfer.core" in line and f"{rows} rows" in line and "1 to 248" in line
    borne = Core(torch.ones(2, 64), (LineageId(0, 0), LineageId(0, 1)), {"seed": 0})
    save_core(borne, tmp_path / "core.safetensors")
    line = refuse("transfer", config, "--core", tmp_path / "core.safetensors")
    assert line.startswith("sweep.seeds is [0]; 0 bore transfer.core '") and "give other seeds" in line
    (tmp_path / "core.safetensors").write_bytes(b"\x80\x04not a core")
    assert "core.safetensors" in refuse("transfer", config, "--core", tmp_path / "core.safetensors")


@pytest.mark.skipif(os.geteuid() != 0, reason="a folder under a file is the case for others")
def test_an_output_that_cannot_be_written(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "file").write_text("")
    line = refuse("sweep", write_config(tmp_path), "--set", f"output={tmp_path / 'file' / 'runs'}")
    assert "output" in line and str(tmp_path / "file") in line


def test_a_tracking_server_that_does_not_answer(tmp_path: Path, refuse: Refuse) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = refuse("sweep", write_config(tmp_path), "--set", f"tracking.uri=http://127.0.0.1:{port}")
    assert "tracking.uri" in line and str(port) in line


def test_a_corpus_that_is_empty_or_too_short(tmp_path: Path, dmsae_here: Here) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    config = write_config(tmp_path, corpus={"source": "text", "path": str(texts)})
    empty = dmsae_here("sweep", config)
    assert (empty.returncode, empty.stderr.count("\n")) == (2, 1), empty.stderr
    assert "corpus.path" in empty.stderr and str(texts) in empty.stderr
    (texts / "one.txt").write_text("A few words only. " * 200)
    short = dmsae_here("sweep", config)
    assert (short.returncode, short.stderr.count("\n")) == (2, 1), short.stderr
    wanted = sum(SMALL["corpus"][n] for n in ("tokens", "attribution_tokens", "eval_tokens"))
    assert "corpus.tokens" in short.stderr and f"{SMALL['corpus']['tokens']}" in short.stderr.replace(",", "")
    assert wanted


def test_a_model_whose_activations_are_not_finite(tmp_path: Path, dmsae_here: Here) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model(), broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    done = dmsae_here("sweep", write_config(tmp_path, model={"name": str(broken)}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stdout + done.stderr
    assert "NaN" in done.stderr or "finite" in done.stderr
    assert "seed0" not in done.stdout  # no trial has said anything


def test_a_cluster_too_small_for_a_trial_is_said_with_the_sum(tmp_path: Path, dmsae_here: Here) -> None:
    done = dmsae_here("sweep", write_config(tmp_path), "--set", "resources.workers_per_trial=500")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stdout + done.stderr
    assert "500" in done.stderr and "resources.workers_per_trial" in done.stderr


def test_config_prints_a_file_that_loads_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    assert main(["config", str(path), "--set", "sweep.seeds=[3,4]"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["sweep"]["seeds"] == [3, 4]
    assert "  coverage: 0.9  # share of the attribution that the core must explain (tau, Eq. 7)\n" in printed
    assert load_experiment(path, ["sweep.seeds=[3,4]"]) == parse_experiment(yaml.safe_load(printed))
    again = tmp_path / "again.yaml"
    again.write_text(printed)
    assert main(["config", str(again)]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("path", sorted((REPOSITORY / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_sweep_of_the_repository_has_a_plan(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path), "--cluster", str(REPOSITORY / "cluster.yaml")]) == 0
    printed = capsys.readouterr().out
    for word in ("trials", "tokens", "FLOP", "storage", "needs at once", "can hold it"):
        assert word in printed


def test_a_plan_that_no_cluster_holds(tmp_path: Path, refuse: Refuse) -> None:
    path = REPOSITORY / "sweeps" / "figure6_sparsity.yaml"
    cluster = REPOSITORY / "cluster.yaml"
    line = refuse("plan", path, "--cluster", cluster, "--set", "resources.gpus_per_worker=64")
    assert "GPU" in line and "64" in line


def test_export_takes_what_is_noted_with_the_sae(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], refuse: Refuse
) -> None:
    sae = MatryoshkaSAE(8, 16, [8, 8], 2)
    save_sae(sae, tmp_path / "noted", {"model": "ada/model", "layer": 3, "context": 32})
    assert main(["export", str(tmp_path / "noted"), str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert written["metadata"]["model_name"] == "ada/model"
    assert written["metadata"]["hook_name"] == "blocks.3.hook_resid_post"
    assert written["architecture"] == "jumprelu" and written["d_in"] == 8
    assert str(tmp_path / "out") in capfd.readouterr().out
    save_sae(sae, tmp_path / "bare")
    assert "--model is missing" in refuse("export", tmp_path / "bare", tmp_path / "out")
    peer = ("--format", "dictionary_learning", "--model", "ada/model", "--layer", "1")
    assert main(["export", str(tmp_path / "bare"), str(tmp_path / "peer"), *peer]) == 0
    assert load_dictionary_learning(tmp_path / "peer").n_latents == 16
    assert "--layer is -1" in refuse("export", tmp_path / "noted", tmp_path / "out", "--layer", "-1")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refuse("export", tmp_path / "noted", tmp_path / "file" / "out")
    assert "config.json" in refuse("export", tmp_path / "none", tmp_path / "out")
