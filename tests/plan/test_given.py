"""What `plan` says of model, SAEs, core and records, which a sweep would refuse: all that this machine knows."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import snapshot_download

from dmsae_ray.cli.commands import main
from dmsae_ray.distill import Core, LineageId, save_core
from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.plan.given import check_given
from dmsae_ray.plan.plan import plan_experiment
from dmsae_ray.sae import MatryoshkaSAE, save_sae
from tests.hub_server import hub_server, use
from tests.lm.models import save_random_model

from .test_text import experiment


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model("gemma2", tmp_path_factory.mktemp("given"))


def test_a_context_that_the_model_does_not_read_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"^corpus.context is 65; model.name 'tiny' reads at most 64$"):
        check_given(experiment("stdlib", None, context=65))
    with pytest.raises(ConfigError, match=rf"^corpus.context is 129; model.name '{model}' reads at most 128$"):
        check_given(experiment("stdlib", None, str(model), context=129))


def test_an_attention_that_changes_the_model_is_refused(model: Path) -> None:
    wrong = experiment("stdlib", None, str(model))
    wrong = wrong.model_copy(update={"model": wrong.model.model_copy(update={"attention": "sdpa"})})
    with pytest.raises(ConfigError, match=r"^model.attention is 'sdpa'; '[^\n]*' soft-caps its attention logits"):
        plan_experiment(wrong)


def test_a_model_without_weights_is_refused_and_a_configuration_alone_is_a_note(model: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(model, part)
    (part / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="is a folder without weights"):
        check_given(experiment("stdlib", None, str(part)))
    for file in part.iterdir():
        if file.name != "config.json":
            file.unlink()
    (note,) = check_given(experiment("stdlib", None, str(part)))
    assert note == f"model.name '{part}' holds a configuration only; a sweep needs weights and tokenizer too"


def given(**settings: object) -> tuple[str, ...]:
    plain = experiment("stdlib", None)
    return check_given(type(plain).model_validate({**plain.model_dump(), **settings}))


def test_an_initial_sae_of_another_width_is_refused(tmp_path: Path) -> None:
    save_sae(MatryoshkaSAE(16, 128, [4, 8, 16, 32, 68], 8, seed=0), tmp_path / "sae")
    with pytest.raises(ConfigError, match=r"^distill.initial_sae is '[^\n]*', of width 16; the residual stream of mod"):
        given(distill={"initial_sae": str(tmp_path / "sae")})
    with pytest.raises(ConfigError, match=r"^distill.initial_sae.8 is '[^\n]*', of width 16"):
        given(distill={"initial_sae": {8: str(tmp_path / "sae")}})
    (tmp_path / "sae" / "config.json").unlink()
    with pytest.raises(ConfigError, match="it must be the folder of a trained SAE"):
        given(distill={"initial_sae": str(tmp_path / "sae")})


def test_a_core_that_is_none_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "core.safetensors")
    with pytest.raises(DmsaeError, match=r"^transfer.core is '[^\n]*core.safetensors'; [^\n]*$"):
        given(transfer={"core": str(tmp_path / "core.safetensors")})


def test_a_core_that_says_how_it_was_made_says_what_an_sae_around_it_cost(tmp_path: Path) -> None:
    ids = tuple(LineageId(0, row) for row in range(3))
    core = Core(torch.randn(3, 64), ids, {"distilled_from_cores": 5})
    save_core(core, tmp_path / "core.safetensors")
    asked = {"core": str(tmp_path / "core.safetensors"), "baseline_budgets": [1, 6]}
    assert given(transfer=asked) == (
        "transfer.core was made by 5 trainings; the training FLOP of a distilled SAE over that of a baseline is "
        "1.00 alone and 6.00 with these, 0.17 alone and 1.00 with these where it has 6 times the tokens",
    )
    assert given(transfer={**asked, "arms": ["distilled"]}) == ()
    save_core(Core(core.rows, ids), tmp_path / "core.safetensors")
    assert given(transfer=asked) == ()


def test_what_is_elsewhere_is_a_note() -> None:
    """A plan may be made elsewhere than the sweep, and of a transfer without its core."""
    assert given(transfer={}) == ()
    notes = given(distill={"initial_sae": "/nowhere/sae"}, transfer={"core": "/nowhere/core"})
    assert notes == (
        "distill.initial_sae '/nowhere/sae' is not on this machine: nothing of it was looked at",
        "transfer.core '/nowhere/core' is not on this machine: nothing of it was looked at",
    )


def test_a_k_without_an_sae_is_refused_wherever_the_others_are() -> None:
    with pytest.raises(ConfigError, match=r"^distill.initial_sae has SAEs for k = 4; sae.k asks for 8: give one"):
        given(distill={"initial_sae": {4: "you/saes/k4"}})


def test_what_is_on_the_hub_is_looked_at_in_its_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sae(MatryoshkaSAE(16, 128, [4, 8, 16, 32, 68], 8, seed=0), tmp_path / "sae")
    (tmp_path / "core.safetensors").write_bytes(b"none")
    with hub_server() as hub:
        use(hub, monkeypatch, str(tmp_path / "cache"))
        files = {f"k8/{path.name}": path.read_bytes() for path in (tmp_path / "sae").iterdir()}
        hub.commit("you/saes", {**files, "core.safetensors": b"none"})
        asked: dict[str, dict[str, object]] = {
            "distill": {"initial_sae": {8: "you/saes/k8"}},
            "transfer": {"core": "you/saes"},
        }
        notes = [f"{field} is a place on the Hub, no path here: nothing of it was looked at" for field in WHERE]
        assert given(distill=asked["distill"], transfer=asked["transfer"]) == tuple(notes) and hub.requests == []
        snapshot_download("you/saes")
        hub.requests.clear()
        with pytest.raises(ConfigError, match=r"^distill.initial_sae.8 is 'you/saes/k8', of width 16"):
            given(distill=asked["distill"])
        with pytest.raises(DmsaeError, match=r"^transfer.core is 'you/saes'; [^\n]*not a core file"):
            given(transfer=asked["transfer"])
        assert hub.requests == []


WHERE = ("distill.initial_sae.8 'you/saes/k8'", "transfer.core 'you/saes'")


@pytest.mark.parametrize("uri", ["ftp://host/x", "mlruns"])
def test_the_command_refuses_a_place_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str) -> None:
    (tmp_path / "a.yaml").write_text(experiment("stdlib", None).to_yaml())
    assert main(["plan", str(tmp_path / "a.yaml"), "--set", f"tracking.uri={uri}"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"dmsae: error: tracking.uri is '{uri}'; give a running server")


def test_a_plan_of_what_needs_no_look_loads_no_torch() -> None:
    """It is asked often, and torch takes seconds."""
    code = (
        "import sys; from dmsae_ray.cli.commands import main\n"
        "assert main(['plan', sys.argv[1]]) == 0; assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    )
    demo = Path(__file__).parents[2] / "sweeps" / "demo.yaml"
    done = subprocess.run([sys.executable, "-c", code, str(demo)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
