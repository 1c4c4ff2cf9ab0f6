"""`dmsae export` of a trial: the right SAE for its cycle and arm, and one line where there is none."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dmsae_ray.cli.commands import main
from dmsae_ray.config.experiment import load_experiment
from dmsae_ray.results.folders import Folders, create_folders
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.dictionary_learning import load_dictionary_learning
from dmsae_ray.sae.files import save_sae
from tests.hub_server import hub_server, use
from tests.report.summaries import CYCLES, make_summary
from tests.small_sweep import write_config

TRIAL = "k8-tau0.3-seed0"
Export = Callable[..., MatryoshkaSAE]
KEYS = [
    *(f"{cycle}distilled" for cycle in range(CYCLES + 1)),
    f"{CYCLES}gaussian",
    "1gaussian_chain",
    "2gaussian_chain",
]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """A sweep of two trials, one finished; the SAE of each of its trainings is of another seed."""
    monkeypatch.chdir(tmp_path)
    folders = create_folders(load_experiment(write_config(tmp_path)))
    trial = folders.sweep / "trials" / TRIAL
    trial.mkdir()
    summary = make_summary(8, 0.3, 0)
    record = summary["controls"]["gaussian"]
    chain = [{**record, "arm": "gaussian_chain", "cycle": at, "key": f"{at}gaussian_chain"} for at in (1, 2)]
    summary["chains"] = {"gaussian": {"records": chain, "survivors": [6, 3, 1]}}
    (trial / "summary.json").write_text(json.dumps(summary))
    (folders.sweep / "trials" / "k8-tau0.6-seed0").mkdir()
    for seed, key in enumerate(KEYS):
        about = {"model": "ada/model", "layer": 1, "context": 64}
        save_sae(made(seed), tmp_path / "runs" / "cycles" / key / "sae", about)
    return folders


def made(seed: int) -> MatryoshkaSAE:
    return MatryoshkaSAE(8, 16, [8, 8], 2, seed=seed)


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        ([], f"{CYCLES}distilled", f"cycle {CYCLES}"),
        (["--cycle", "0"], "0distilled", "cycle 0"),
        (["--cycle", "2"], "2distilled", "cycle 2"),
        (["--arm", "gaussian"], f"{CYCLES}gaussian", "control gaussian"),
        (["--arm", "gaussian", "--cycle", str(CYCLES)], f"{CYCLES}gaussian", "control gaussian"),
        (["--arm", "gaussian_chain"], "2gaussian_chain", "control gaussian_chain, cycle 2"),
        (["--arm", "gaussian_chain", "--cycle", "1"], "1gaussian_chain", "control gaussian_chain, cycle 1"),
    ],
)
def test_a_trial_its_cycle_and_its_control(
    sweep: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], key: str, said: str
) -> None:
    common = [str(tmp_path / "out"), "--format", "dictionary_learning", *options]
    assert main(["export", str(sweep.sweep), *common, "--trial", TRIAL]) == 0
    found = load_dictionary_learning(tmp_path / "out")
    assert torch.equal(found.W_dec, made(KEYS.index(key)).W_dec)
    assert f"{TRIAL}, {said}: {tmp_path / 'runs' / 'cycles' / key / 'sae'}\n" in capsys.readouterr().out
    assert main(["export", str(sweep.sweep / "trials" / TRIAL), *common]) == 0, "the trial's folder names it too"
    assert main(["export", str(tmp_path / "runs" / "cycles" / key / "sae"), *common[:3]]) == 0, "so does the SAE's"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], f"--trial is missing: a sweep has many SAEs; of sweep NAME finished are {TRIAL}"),
        (["--trial", "k9"], f"--trial is k9; of sweep NAME finished are {TRIAL}"),
        (["--trial", "k8-tau0.6-seed0"], f"--trial is k8-tau0.6-seed0; of sweep NAME finished are {TRIAL}"),
        (["--trial", f"../trials/{TRIAL}"], f"finished are {TRIAL}"),
        (["--trial", TRIAL, "--cycle", "9"], f"--cycle is 9; trial {TRIAL} has cycles 0, 1, 2, 3"),
        (["--trial", TRIAL, "--arm", "other"], f"--arm is other; trial {TRIAL} has gaussian, gaussian_chain"),
        (["--trial", TRIAL, "--arm", "gaussian_chain", "--cycle", "3"], "gaussian_chain was trained in cycles 1, 2"),
        (["--trial", TRIAL, "--arm", "gaussian", "--cycle", "1"], "gaussian was trained in cycle 3"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    sweep: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["export", str(sweep.sweep), str(tmp_path / "out"), *options]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and said.replace("NAME", sweep.name) in line
    assert not (tmp_path / "out").exists()


def test_an_sae_of_its_own_has_no_trial(sweep: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sae = tmp_path / "runs" / "cycles" / "0distilled" / "sae"
    assert main(["export", str(sae), str(tmp_path / "out"), "--trial", TRIAL]) == 2
    assert f"--trial is {TRIAL}; it needs a sweep's folder, and '{sae}' is none" in capsys.readouterr().err


def test_an_sae_of_the_hub(
    sweep: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, target = tmp_path / "runs" / "cycles" / "0distilled" / "sae", str(tmp_path / "out")
    with hub_server() as hub:
        use(hub, monkeypatch, str(tmp_path / "cache"))
        hub.commit("you/saes", {f"a/{path.name}": path.read_bytes() for path in sae.iterdir()})
        assert main(["export", "you/saes@main/a", target, "--format", "dictionary_learning"]) == 0
        assert torch.equal(load_dictionary_learning(target).W_dec, made(0).W_dec)
        capsys.readouterr()
        assert main(["export", "you/saes@v2/a", target]) == 2
        assert "PLACE is 'you/saes@v2/a'; repository 'you/saes' has no revision 'v2'" in capsys.readouterr().err


def test_a_registered_sae_encodes_as_the_sae_itself(
    sweep: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for version in (1, 2):
        assert main(["register", str(sweep.sweep), "core-sae", "--trial", TRIAL, "--cycle", "2"]) == 0
        assert f"mlflow.pyfunc.load_model('models:/core-sae/{version}')" in capsys.readouterr().out
    assert "MLFLOW_TRACKING_URI" not in os.environ
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    try:
        loaded = mlflow.pyfunc.load_model("models:/core-sae/2")
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
        expected = made(KEYS.index("2distilled")).encode(x).detach()
        assert torch.equal(torch.from_numpy(loaded.predict(x.numpy())), expected) and expected.count_nonzero() > 5
    finally:
        mlflow.set_tracking_uri(None)
    assert main(["register", str(sweep.sweep), "a/b", "--trial", TRIAL]) == 2
    assert "NAME is 'a/b'" in capsys.readouterr().err
    assert "MLFLOW_TRACKING_URI" not in os.environ
