"""What a sweep is given from the Hub: downloaded once, kept in the output, and read from there by all workers."""

import io
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import fs

from dmsae_ray.config.experiment import Experiment, load_experiment
from dmsae_ray.distill.core import Core, load_core
from dmsae_ray.distill.lineage import LineageId
from dmsae_ray.errors import ConfigError, DataError, DmsaeError
from dmsae_ray.plan.training import initial_sae
from dmsae_ray.results.folders import experiment_of
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.dictionary_learning import export_dictionary_learning
from dmsae_ray.sae.saelens import export_saelens
from dmsae_ray.sweep.given import CORE, copy_here
from dmsae_ray.sweep.prepared import PreparedSweep, prepare_sweep
from tests.hub_server import Hub, hub_server, use
from tests.optional import optional
from tests.s3_server import s3_server
from tests.small_sweep import Here, sweep_folder, write_config
from tests.sweep.failing_storage import KEYS

SAES, CORES = "someone/saebench_tiny_width-2pow8", "someone/cores"
LAYOUT = "saes/resid_post_layer_1"
"""As the released SAEs lie: a folder a trainer, one for each sparsity."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        use(server, monkeypatch, str(tmp_path / "cache"))
        yield server


def released(sae: MatryoshkaSAE, folder: Path, *, linear: bool = False, **said: Any) -> dict[str, bytes]:
    """ae.pt and config.json as dictionary_learning's trainer leaves them, in either spelling."""
    export_dictionary_learning(sae, folder, "tiny", 1)
    state = torch.load(folder / "ae.pt", weights_only=True)
    if linear:
        state["encoder.weight"], state["encoder.bias"] = state.pop("W_enc").T, state.pop("b_enc")
        state["decoder.weight"] = state.pop("W_dec").T
    config = json.loads((folder / "config.json").read_text())
    del config["dmsae_ray"]
    config["trainer"].update(said)
    content = io.BytesIO()
    torch.save(state, content)
    return {"ae.pt": content.getvalue(), "config.json": json.dumps(config).encode()}


def sae_of(k: int, seed: int = 0) -> MatryoshkaSAE:
    return MatryoshkaSAE(64, 256, [64, 64, 128], k, seed=seed)


def release(hub: Hub, tmp_path: Path, seed: int = 0, **said: Any) -> str:
    """An SAE for k = 4 in the one spelling and one for k = 8 in the other; the commit."""
    files = {}
    for trainer, k in enumerate((4, 8)):
        found = released(sae_of(k, seed), tmp_path / f"k{k}-{seed}", linear=k == 8, **said)
        files |= {f"{LAYOUT}/trainer_{trainer}/{name}": content for name, content in found.items()}
        files[f"{LAYOUT}/trainer_{trainer}/eval_results.json"] = b"{}"
    return hub.commit(SAES, files)


def experiment(tmp_path: Path, revision: str = "", **distill: Any) -> Experiment:
    given = {k: f"{SAES}{revision}/{LAYOUT}/trainer_{trainer}" for trainer, k in enumerate((4, 8))}
    distill = {"initial_sae": given, "cycles": 1, "controls": [], **distill}
    path = write_config(tmp_path, distill=distill, sweep={"k": [4, 8], "coverage": None}, output=str(tmp_path / "runs"))
    return load_experiment(path)


def first_saes(sweep: PreparedSweep) -> list[MatryoshkaSAE]:
    """What the workers of each k read."""
    found = []
    for k in (4, 8):
        field = sweep.experiment.distill.initial_setting(k)
        with copy_here(sweep.given[field], field) as here:
            sae = initial_sae(sweep.experiment, 64, k, here)
        assert sae is not None
        found.append(sae)
    return found


def is_seed(saes: list[MatryoshkaSAE], seed: int) -> bool:
    return all(sae.W_enc.equal(sae_of(k, seed).W_enc) for sae, k in zip(saes, (4, 8), strict=True))


DOWNLOADS = [f"{LAYOUT}/trainer_{i}/{name}" for i in (0, 1) for name in ("config.json", "ae.pt")]


@pytest.mark.sweep
def test_workers_never_ask_the_hub(hub: Hub, finished_sweep: Path, tmp_path: Path, dmsae_here: Here) -> None:
    commit = release(hub, tmp_path)

    def off_when_all_is_here(method: str, path: str) -> int | None:
        last = method == "GET" and path.endswith(DOWNLOADS[-1])
        return 503 if len(hub.downloads()) >= len(DOWNLOADS) and not last else None

    hub.fault = off_when_all_is_here
    (tmp_path / "runs").mkdir()
    shutil.copytree(finished_sweep / "runs" / "stores", tmp_path / "runs" / "stores")
    asked = experiment(tmp_path)
    done = dmsae_here("sweep", tmp_path / "experiment.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert hub.downloads() == DOWNLOADS, "each file once"
    assert hub.requests[-1].endswith(DOWNLOADS[-1]), "nothing was asked after that"
    assert asked.distill.initial_sae == {k: f"hf://{SAES}/{LAYOUT}/trainer_{i}" for i, k in enumerate((4, 8))}
    folder = sweep_folder(tmp_path)
    inputs = json.loads((folder / "inputs.json").read_text())
    assert inputs["distill.initial_sae.4 (Hub commit)"] == commit
    for k in (4, 8):
        kept = tmp_path / "runs" / "given" / inputs[f"distill.initial_sae.{k}"]
        assert {path.name for path in kept.iterdir()} == {"ae.pt", "config.json", "given.json"}
        (trial,) = folder.glob(f"trials/k{k}-*/summary.json")
        assert json.loads(trial.read_text())["collapsed_at"] is None
        # The rows of its first core are rows of the SAE of the Hub.
        core = load_core(trial.parent / "core.safetensors").rows
        assert len(core) and all((sae_of(k).W_enc == row).all(dim=1).any() for row in core)


def test_a_sweep_goes_on_with_what_it_began_with(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = release(hub, tmp_path)
    asked = experiment(tmp_path)
    with caplog.at_level(logging.WARNING, "dmsae_ray"):
        assert is_seed(first_saes(prepare_sweep(asked)), 0)
    assert [record.message for record in caplog.records] == [
        f"distill.initial_sae.{k} is 'hf://{SAES}/{LAYOUT}/trainer_{i}', which may change on the Hub; "
        f"pin what is there now: '{SAES}@{first}/{LAYOUT}/trainer_{i}'"
        for i, k in enumerate((4, 8))
    ]
    second = release(hub, tmp_path, seed=1)
    hub.requests.clear()
    caplog.clear()
    assert is_seed(first_saes(prepare_sweep(asked)), 0)
    assert hub.requests == [] and caplog.messages == [], "the copies are there"
    shutil.rmtree(tmp_path / "runs" / "given")
    shutil.rmtree(tmp_path / "cache")
    assert is_seed(first_saes(prepare_sweep(asked)), 0), "the commit that it began with"
    assert is_seed(first_saes(prepare_sweep(experiment(tmp_path, f"@{second}"))), 1), "another setting, another sweep"


def test_a_folder_of_such_a_name_changes_nothing_for_a_sweep(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dmsae resume` may be called in any working directory."""
    release(hub, tmp_path)
    sweep = prepare_sweep(experiment(tmp_path)).folders.sweep
    for trainer in (0, 1):
        (tmp_path / "here" / SAES / LAYOUT / f"trainer_{trainer}").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    resumed = experiment_of(sweep)
    assert prepare_sweep(resumed).folders.sweep == sweep and is_seed(first_saes(prepare_sweep(resumed)), 0)


def test_what_may_move_is_said(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    commit = release(hub, tmp_path)
    hub.repos["models", SAES].refs["dev"] = commit
    for revision, times in (("@dev", 2), (f"@{commit}", 0)):
        caplog.clear()
        prepare_sweep(experiment(tmp_path, revision))
        assert len([line for line in caplog.messages if "pin what is there now" in line]) == times


def test_what_a_grid_does_not_ask_for_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    release(hub, tmp_path)
    asked = experiment(tmp_path)
    one = asked.model_copy(update={"sweep": asked.sweep.model_copy(update={"k": (8,)})})
    assert set(prepare_sweep(one).given) == {"distill.initial_sae.8"} and hub.downloads() == DOWNLOADS[2:]
    both = prepare_sweep(asked)
    assert is_seed(first_saes(both), 0) and hub.downloads() == [*DOWNLOADS[2:], *DOWNLOADS[:2]]
    assert both.folders.name == prepare_sweep(one).folders.name, "k is added to the same sweep"
    shutil.rmtree(tmp_path / "runs" / "given")
    with pytest.raises(
        DataError, match=r"^distill.initial_sae.4: its copy '[^\n]*' is gone; the same command makes it"
    ):
        first_saes(both)
    assert is_seed(first_saes(prepare_sweep(asked)), 0)


def test_a_local_folder_is_copied_and_compared(tmp_path: Path, hub: Hub) -> None:
    for k in (4, 8):
        export_saelens(sae_of(k), tmp_path / f"sae{k}", "tiny", "blocks.1.hook_resid_post")
    asked = experiment(tmp_path, initial_sae={k: str(tmp_path / f"sae{k}") for k in (4, 8)})
    assert is_seed(first_saes(prepare_sweep(asked)), 0)
    export_saelens(sae_of(4, 1), tmp_path / "sae4", "tiny", "blocks.1.hook_resid_post")
    with pytest.raises(ConfigError, match=r"distill.initial_sae.4 has changed"):
        prepare_sweep(asked)
    shutil.rmtree(tmp_path / "sae4")
    assert is_seed(first_saes(prepare_sweep(asked)), 0), "another head goes on without the folder"
    assert hub.requests == []


def test_other_formats_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    for k in (4, 8):
        export_saelens(sae_of(k), tmp_path / "up" / f"trainer_{k // 8}", "tiny", "blocks.2.hook_resid_pre")
    files = {str(path.relative_to(tmp_path / "up")): path.read_bytes() for path in (tmp_path / "up").rglob("*.*")}
    hub.commit(SAES, {f"{LAYOUT}/{name}": content for name, content in files.items()})
    assert is_seed(first_saes(prepare_sweep(experiment(tmp_path))), 0)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"layer": 2}, "trained after block 2; it must be of model.layer = 1"),
        ({"lm_name": "google/gemma-2-2b"}, "trained on model 'google/gemma-2-2b'; it must be of model.name 'tiny'"),
        ({"dict_size": 512}, "trainer.dict_size is 512, and 256 in ae.pt"),
        ({"activation_dim": 32}, "trainer.activation_dim is 32, and 64 in ae.pt"),
        ({"group_sizes": [128, 128]}, "trainer.group_sizes is [128, 128], and [64, 64, 128] in ae.pt"),
        ({"k": 80}, "trainer.k is 80, and 4 in ae.pt"),
        ({"layer": "one"}, "layer is 'one', must be a number"),
        ({"submodule_name": "mlp_out_layer_1"}, "trained on 'mlp_out_layer_1'; it must be of the residual stream"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_the_files_say_is_checked(said: dict[str, Any], line: str, hub: Hub, tmp_path: Path) -> None:
    release(hub, tmp_path, **said)
    with pytest.raises(DmsaeError) as caught:
        prepare_sweep(experiment(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"distill.initial_sae.4 is 'hf://{SAES}/{LAYOUT}/trainer_0'") and "\n" not in message
    assert line in message and not (tmp_path / "runs").exists(), "nothing was begun"


@pytest.mark.parametrize("name", ["someone/Tiny", "TINY"])
def test_the_organisation_of_a_model_is_no_difference(name: str, hub: Hub, tmp_path: Path) -> None:
    release(hub, tmp_path, lm_name=name)
    assert is_seed(first_saes(prepare_sweep(experiment(tmp_path))), 0)


def test_a_hook_that_is_not_the_residual_stream(tmp_path: Path) -> None:
    export_saelens(sae_of(4), tmp_path / "sae", "tiny", "blocks.1.hook_mlp_out")
    with pytest.raises(ConfigError, match=r"trained on 'blocks.1.hook_mlp_out'; it must be of the residual stream"):
        prepare_sweep(experiment(tmp_path, initial_sae={4: str(tmp_path / "sae"), 8: str(tmp_path / "sae")}))


def some_core() -> Core:
    return Core(torch.randn(5, 64), tuple(LineageId(0, i) for i in range(5)), {"seed": 9})


def transfer(tmp_path: Path, core: str, **more: Any) -> Experiment:
    return load_experiment(write_config(tmp_path, transfer={"core": core, **more}, output=str(tmp_path / "runs")))


@pytest.mark.parametrize("where", ["top", "folder", "file"])
def test_a_core_of_the_hub(where: str, hub: Hub, tmp_path: Path) -> None:
    core = some_core()
    name = {"top": "core.safetensors", "folder": "a/b/core.safetensors", "file": "a/mine.safetensors"}[where]
    commit = hub.commit(CORES, {name: core.to_bytes(), "other.safetensors": b"?"})
    place = {"top": CORES, "folder": f"hf://{CORES}@{commit}/a/b", "file": f"{CORES}/{name}"}[where]
    for _ in range(2):
        sweep = prepare_sweep(transfer(tmp_path, place))
        with copy_here(sweep.given[CORE], CORE) as here:
            assert load_core(here[CORE], 64).rows.equal(core.rows)
    assert hub.downloads() == [name]
    import dmsae_ray

    assert dmsae_ray.load_core(place, d_model=64).rows.equal(core.rows)
    with pytest.raises(DmsaeError, match=r"rows of width 64, the model needs 65"):
        dmsae_ray.load_core(place, d_model=65)
    with pytest.raises(ConfigError, match=rf"^core: '{CORES}/nothing'; repository '{CORES}' has no folder 'nothing'$"):
        dmsae_ray.load_core(f"{CORES}/nothing")


def test_a_core_in_a_local_folder(tmp_path: Path) -> None:
    import dmsae_ray

    core = some_core()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "core.safetensors").write_bytes(core.to_bytes())
    sweep = prepare_sweep(transfer(tmp_path, str(tmp_path / "folder")))
    with copy_here(sweep.given[CORE], CORE) as here:
        assert load_core(here[CORE]).rows.equal(core.rows)
    for place in (tmp_path / "folder", str(tmp_path / "folder" / "core.safetensors")):
        assert dmsae_ray.load_core(place).rows.equal(core.rows)
    with pytest.raises(DataError, match=r"^core: no file runs/sweeps/core.safetensors$"):
        dmsae_ray.load_core(Path("runs/sweeps/core.safetensors"))


@pytest.mark.sweep
def test_transfer_of_a_core_of_the_hub(hub: Hub, finished_sweep: Path, tmp_path: Path, dmsae_here: Here) -> None:
    hub.commit(CORES, {"core.safetensors": some_core().to_bytes()})
    (tmp_path / "runs").mkdir()
    shutil.copytree(finished_sweep / "runs" / "stores", tmp_path / "runs" / "stores")
    config = write_config(tmp_path, transfer={"arms": ["distilled"], "core_sparsity": ["sparse"]})
    done = dmsae_here("transfer", config, "--core", CORES, "--set", "sweep.coverage=null")
    assert done.returncode == 0, done.stdout + done.stderr
    (summary,) = sweep_folder(tmp_path).glob("trials/*/summary.json")
    assert json.loads(summary.read_text())["records"][0]["n_core_in"] == 5


def test_the_copies_of_a_bucket(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine, without the Hub and with an empty cache, goes on."""
    optional("moto.server")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    release(hub, tmp_path)
    monkeypatch.chdir(tmp_path)
    with s3_server() as options:
        output = f"s3://runs/team?{options}"
        fs.FileSystem.from_uri(output)[0].create_dir("runs/team")
        asked = experiment(tmp_path).model_copy(update={"output": output})
        prepare_sweep(asked)
        hub.fault = lambda method, path: 503
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        assert is_seed(first_saes(prepare_sweep(asked)), 0)
        assert hub.downloads() == DOWNLOADS
