"""`dmsae publish`: the folder, its card, and the upload to a Hub on loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, snapshot_download

from dmsae_ray.cli.commands import main
from dmsae_ray.config import shell_command
from dmsae_ray.config.experiment import load_experiment
from dmsae_ray.distill.core import load_core
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.lm.tiny import tiny_model
from dmsae_ray.report.report import make_report, write_report
from dmsae_ray.results.begun import folder_name
from dmsae_ray.sae.files import load_sae
from tests.hub_server import Hub, hub_server, use
from tests.optional import left_out
from tests.report.published_sweep import ARM, PRIVATE, TRIAL, Sweeps, edit_summary, make_sweeps, texts

REPO, TOKEN = "me/small-sae", "hf_of_me"
WEIGHTS = {"saelens/sae_weights.safetensors", "dmsae/sae.safetensors", "dictionary_learning/ae.pt", "core.safetensors"}
WRITTEN = {
    *WEIGHTS,
    "saelens/cfg.json",
    "dmsae/config.json",
    "dictionary_learning/config.json",
    "README.md",
    "experiment.yaml",
    "metrics.json",
    "summary.json",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    return make_sweeps(tmp_path_factory.mktemp("published"))


@pytest.fixture
def copy(made: Sweeps, tmp_path: Path) -> Path:
    """A copy of the sweep of cycles, whose trials a test may change."""
    shutil.copytree(made.cycles.parent.parent, tmp_path / "runs")
    return tmp_path / "runs" / "sweeps" / made.cycles.name


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        server.tokens = {TOKEN: "me"}
        use(server, monkeypatch, str(tmp_path / "cache"), TOKEN)
        yield server


def publish(sweep: Path, trial: str, out: Path, *options: str) -> str:
    """Write the folder; the card without its front matter."""
    assert main(["publish", str(sweep), trial, "--out", str(out), *options]) == 0
    return ModelCard.load(out / "README.md").text


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["publish", *map(str, arguments)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and TOKEN not in line
    return line


def section(card: str, head: str) -> str:
    found = re.search(rf"^## {re.escape(head)}\n\n(.*?)(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)
    assert found is not None, head
    return found[1]


def cells(card: str, head: str) -> dict[str, list[str]]:
    """The rows of the tables of a section by their first cell."""
    rows = [line.strip("| ").split(" | ") for line in section(card, head).splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_the_folder_says_nothing_of_the_machine(
    made: Sweeps, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    out = tmp_path / "out"
    publish(made.cycles, TRIAL, out)
    said = capsys.readouterr().out
    assert {name for name, _ in texts(out)} == WRITTEN
    assert all(f"  {name}\n" in said for name in WRITTEN)
    command = shell_command(
        "dmsae", "publish", made.cycles, TRIAL, "--out", out
    )  # the program as this machine finds it
    assert f"nothing was uploaded; to do so: {command} --repo USER/NAME" in said
    for name, content in texts(out):
        for word in (PRIVATE, str(made.cycles.parent), "mlflow.db", TOKEN, os.environ["HOME"] + "/"):
            assert word.encode() not in content, (name, word)
    told = load_experiment(out / "experiment.yaml")
    whole = load_experiment(made.cycles / "config.yaml")
    assert told.corpus.path is not None and told.corpus.path.endswith("/texts.txt")
    assert "texts.txt" in (out / "experiment.yaml").read_text()
    assert told.sae == whole.sae and told.recipe == whole.recipe and told.distill == whole.distill


def test_the_front_matter(made: Sweeps, tmp_path: Path) -> None:
    publish(made.cycles, TRIAL, tmp_path / "out", "--license", "gemma")
    head = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert head["license"] == "gemma" and head["library_name"] == "saelens"
    assert {"sparse-autoencoder", "dmsae", "saelens"} <= set(head["tags"])
    assert "base_model" not in head and "datasets" not in head, "neither is on the Hub"


def test_saelens_metadata_say_what_was_used(made: Sweeps, tmp_path: Path) -> None:
    publish(made.cycles, TRIAL, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "saelens" / "cfg.json").read_text())["metadata"]
    layout = json.loads((made.cycles.parent.parent / "stores" / made.store / "tokens" / "layout.json").read_text())
    assert told["hook_name"] == "blocks.1.hook_resid_post" and told["context_size"] == layout["context"]
    assert told["prepend_bos"] is True and layout["bos"] is not None
    assert told["exclude_special_tokens"] == [layout["bos"]] and told["sequence_separator_token"] == "eos"
    assert (told["model_name"], told["model_dtype"], told["dataset_path"]) == ("tiny", "float32", None)


def test_export_says_the_same(made: Sweeps, tmp_path: Path) -> None:
    publish(made.cycles, TRIAL, tmp_path / "out")
    for name in ("saelens", "dictionary_learning"):
        options = ["--trial", TRIAL, "--format", name]
        assert main(["export", str(made.cycles), str(tmp_path / name), *options]) == 0
        assert dict(texts(tmp_path / name)) == dict(texts(tmp_path / "out" / name))


def test_transformers_gives_the_activations_where_the_card_says(made: Sweeps, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    card = publish(made.cycles, TRIAL, tmp_path / "out")
    assert "`model(tokens, output_hidden_states=True).hidden_states[2]`" in card
    tokens = torch.arange(40, 72)[None]
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)
    with torch.no_grad():
        there = model(tokens, output_hidden_states=True).hidden_states[2]
    tap = load_tap("tiny", 1, "cpu", "float32")
    assert torch.allclose(there[0], tap.activations(tokens).reshape(32, -1), atol=1e-5)


def test_the_numbers_of_the_card_are_those_of_the_report(made: Sweeps, tmp_path: Path) -> None:
    card = publish(made.cycles, TRIAL, tmp_path / "out")
    write_report(make_report(made.cycles), made.cycles, [])
    (setting,) = json.loads((made.cycles / "report.json").read_text())["cycles"]
    summary = json.loads((made.cycles / "trials" / TRIAL / "summary.json").read_text())
    last = summary["records"][-1]
    measured = cells(card, "Measured")
    for name, key, digits in (
        ("L0: latents that fire at a token", "l0", 1),
        ("- of the core", "l0_core", 1),
        ("- of the others", "l0_non_core", 1),
        ("FVU: share of the variance not explained", "fvu", 3),
    ):
        found, values = setting["metrics"][key]["mean"], setting["metrics"][key]["values"]
        both = ", ".join(f"{value:.{digits}f}" for value in values)
        assert measured[name] == [f"{last['metrics'][key]:.{digits}f}", f"{found:.{digits}f} ({both})"]
    back = cells(card, "Does the core come back?")
    for name, own, key in (
        ("**Carryover**: share of the core that was selected again", last["carryover"], setting["carryover"]),
        ("Chance: a core drawn at random from the pool", last["chance"], setting["chance"]),
        ("Test-retest: two halves of the tokens select from one SAE", last["retest"], setting["retest"]),
        (
            "Control: a gaussian core, same norms",
            summary["controls"]["gaussian"]["carryover"],
            setting["controls"]["gaussian"],
        ),
    ):
        both = ", ".join(f"{value:.2f}" for value in key["values"])
        assert back[name] == [f"{own:.2f}", f"{key['mean']:.2f} ({both})"]
    assert cells(card, "The core")["latents selected"] == [str(size) for size in summary["core_sizes"]]
    assert f"the {summary['distilled_size']} latents that all 3 cycles selected" in card
    assert "With 2 seeds there is no interval" in card


def test_the_distilled_latents_are_where_the_card_says(made: Sweeps, tmp_path: Path) -> None:
    out = tmp_path / "out"
    card = publish(made.cycles, TRIAL, out)
    rows, core = load_sae(out / "dmsae").W_enc, load_core(out / "core.safetensors")
    places = json.loads((out / "metrics.json").read_text())["distilled_latents"]
    assert len(places) == len(core) >= 2 and ", ".join(map(str, places)) in card
    assert torch.allclose(rows[places], core.rows, atol=1e-6)


def test_stability_that_was_measured_and_that_was_not(copy: Path, tmp_path: Path) -> None:
    quick = section(publish(copy, TRIAL, tmp_path / "quick"), "Do other trainings find it?")
    assert main(["stability", str(copy)]) == 0
    measured = section(publish(copy, TRIAL, tmp_path / "measured"), "Do other trainings find it?")
    assert quick == measured, "a small sweep is asked at once"
    again = [
        one
        for one in json.loads((copy / "stability.json").read_text())["again"]
        if (one["set"], one["kind"]) == ("distilled", "another seed")
    ]
    values = [one["mean"]["decoder"] for one in again]
    both = ", ".join(f"{value:.2f}" for value in values)
    assert cells("## a\n\n" + measured, "a")["distilled"][1] == f"{sum(values) / 2:.2f} ({both})"
    (copy / "stability.json").write_text("{}")
    assert main(["publish", str(copy), TRIAL, "--out", str(tmp_path / "none")]) == 2
    for damaged in ("stability.json", "trials/k4-tau0.6-seed1/summary.json"):
        (copy / damaged).unlink()
    alone = publish(copy, TRIAL, tmp_path / "alone")
    assert "was not measured (`dmsae stability SWEEP` does it)" in section(alone, "Do other trainings find it?")


def test_quality_that_was_measured_and_that_was_not(copy: Path, tmp_path: Path) -> None:
    said = section(publish(copy, TRIAL, tmp_path / "none"), "Quality")
    assert "was not measured by SAEBench" in said and "`dmsae eval SWEEP` does both" in said
    trials = (TRIAL, "k4-tau0.6-seed1")
    records = [json.loads((copy / "trials" / name / "summary.json").read_text())["records"] for name in trials]

    def row(key: str, fvu: float | None, **more: float) -> dict[str, Any]:
        return {"trial": "any", "key": key, "metrics": {"own/fvu": fvu, "own/tokens": 9.0, **more}}

    rows = [row(records[0][-1]["key"], 0.25, **{"core/l0": 7.0}), row(records[1][-1]["key"], 0.75)]
    rows += [row(records[0][0]["key"], 0.5), row("another", 0.9), row(records[0][1]["key"], None)]
    (copy / "quality.json").write_text(json.dumps({"saes": rows}))
    found = cells(publish(copy, TRIAL, tmp_path / "last"), "Quality")
    assert found == {
        "this SAE": ["mean over 2 seeds (both values)"],
        "---": ["---", "---"],
        "fraction of variance unexplained (lower is better)": ["0.250", "0.500 (0.250, 0.750)"],
        "SAEBench, core: L0 of SAEBench": ["7.000", "7.000, n = 1"],
    }
    numbers = json.loads((tmp_path / "last" / "metrics.json").read_text())["quality"]
    assert numbers["own"]["own/fvu"] == 0.25 and set(numbers["seeds"]) == {"0", "1"}
    first = section(publish(copy, TRIAL, tmp_path / "first", "--cycle", "0"), "Quality")
    assert "| 0.500 |" in first and "mean" not in first.partition("|")[2].partition("---")[0]
    for options in (["--cycle", "1"], ["--arm", "gaussian"]):
        assert "was not measured" in section(publish(copy, TRIAL, tmp_path / options[1], *options), "Quality")
    edit_summary(copy, "k4-tau0.6-seed1", collapse="all_scores_zero", collapsed_at=2)
    assert "mean over" not in section(publish(copy, TRIAL, tmp_path / "last"), "Quality")


def test_one_seed_has_no_mean(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "trials" / "k4-tau0.6-seed1")
    card = publish(copy, TRIAL, tmp_path / "out")
    assert "has one seed, 0, so that there is no mean and no interval" in card and "mean over" not in card
    assert "With 1 seed there is no interval" in card


def test_a_collapsed_seed_is_in_no_mean(copy: Path, tmp_path: Path) -> None:
    edit_summary(copy, "k4-tau0.6-seed1", collapse="all_scores_zero", collapsed_at=2)
    card = publish(copy, TRIAL, tmp_path / "out")
    assert "collapsed, and in no mean: 1 (all_scores_zero in cycle 2)" in card and "mean over" not in card
    own = publish(copy, "k4-tau0.6-seed1", tmp_path / "own")
    assert "**This trial collapsed (all_scores_zero in cycle 2)." in own
    assert "| this SAE | seed 0 |" in section(own, "Measured")
    assert section(own, "Do other trainings find it?") == "Not measured of this trial, since it collapsed.\n\n"


@pytest.mark.parametrize(
    ("options", "title", "said", "core"),
    [
        (["--cycle", "0"], "# Matryoshka SAE (cycle 0, no core yet)", "It is the SAE of cycle 0 (of 0 to 2)", True),
        (["--cycle", "1"], "# Distilled Matryoshka SAE", "with the frozen encoder rows that cycle 0 handed on", True),
        (["--arm", "gaussian"], "# Control: Matryoshka SAE around a gaussian core", "are not the core", False),
    ],
)
def test_another_cycle_and_a_control(
    made: Sweeps, tmp_path: Path, options: list[str], title: str, said: str, core: bool
) -> None:
    card = publish(made.cycles, TRIAL, tmp_path / "out", *options)
    assert title in card and said in card
    assert (tmp_path / "out" / "core.safetensors").exists() is core is ("load_core" in card)
    summary = json.loads((made.cycles / "trials" / TRIAL / "summary.json").read_text())
    assert ("distilled" in section(card, "The core")) is core, "a control has no distilled core"
    assert ("trial's own core, which this control" in section(card, "Does the core come back?")) is not core
    own = summary["controls"]["gaussian"] if "--arm" in options else summary["records"][int(options[1])]
    assert cells(card, "Measured")["L0: latents that fire at a token"][0] == f"{own['metrics']['l0']:.1f}"


def test_transfers(made: Sweeps, tmp_path: Path) -> None:
    card = publish(made.transfers, ARM, tmp_path / "out")
    assert (
        "# Matryoshka SAE around a distilled core" in card and "`core.safetensors` is the core that was given" in card
    )
    given = (made.cycles / "trials" / TRIAL / "core.safetensors").read_bytes()
    assert (tmp_path / "out" / "core.safetensors").read_bytes() == given
    assert "nothing" not in section(card, "Does the core come back?")
    control = publish(made.transfers, ARM.replace("distilled", "gaussian"), tmp_path / "control")
    assert "This SAE is a control" in control and not (tmp_path / "control" / "core.safetensors").exists()


def test_a_folder_is_written_again_for_the_same_sae_only(
    made: Sweeps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    publish(made.cycles, TRIAL, out)
    before = dict(texts(out))
    publish(made.cycles, TRIAL, out)
    assert dict(texts(out)) == before
    publish(made.cycles, TRIAL, out, "--format", "saelens")
    assert {name.partition("/")[0] for name, _ in texts(out) if "/" in name} == {"saelens"}
    assert "load_dictionary" not in (out / "README.md").read_text()
    assert f"--out is '{out}'; it must be a new folder" in refused(
        capsys, made.cycles, TRIAL, "--cycle", 0, "--out", out
    )
    other = tmp_path / "home"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    assert "it must be a new folder" in refused(capsys, made.cycles, TRIAL, "--out", other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["k9"], f"TRIAL is k9; of sweep NAME finished are {TRIAL}, k4-tau0.6-seed1"),
        ([TRIAL, "--cycle", "9"], f"--cycle is 9; trial {TRIAL} has cycles 0, 1, 2"),
        ([TRIAL, "--arm", "other"], f"--arm is other; trial {TRIAL} has gaussian"),
        ([TRIAL, "--repo", "no-user"], "--repo is 'no-user'; it must be user/name"),
        ([TRIAL, "--repo", "a/b/c"], "--repo is 'a/b/c'; it must be user/name"),
        ([TRIAL, "--repo", "me/a sae"], "--repo is 'me/a sae'; it must be user/name"),
        ([TRIAL, "--license", "my own"], "--license is 'my own'; it must be an id of the Hub's list"),
        ([TRIAL, "--license", "other"], "--license is 'other'; it must be an id of the Hub's list"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    made: Sweeps, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    line = refused(capsys, made.cycles, *arguments, "--out", tmp_path / "out")
    assert said.replace("NAME", made.cycles.name) in line
    assert not (tmp_path / "out").exists()


def as_if(sweep: Path, model: str, **corpus: Any) -> Path:
    """The sweep as if it was of another model and corpus; its folder has the name that its config gives."""
    for name in ("config.yaml", "begun.yaml"):
        tree = yaml.safe_load((sweep / name).read_text())
        tree["model"] |= {"name": model, "revision": "abc"}
        tree["corpus"] |= corpus
        (sweep / name).write_text(yaml.safe_dump(tree))
    for path in sweep.parent.parent.glob("cycles/*/sae/config.json"):
        config = json.loads(path.read_text())
        text = {**config["extra"]["text"], **corpus}
        named = corpus.get("path", config["extra"]["corpus"])
        config["extra"] |= {"model": model, "revision": "abc", "corpus": named, "text": text}
        path.write_text(json.dumps(config))
    return sweep.rename(sweep.with_name(folder_name(load_experiment(sweep / "begun.yaml"))))


def test_a_model_and_a_dataset_of_the_hub(copy: Path, tmp_path: Path) -> None:
    dataset = {"source": "huggingface", "path": "ada/text", "subset": "en", "split": "train", "revision": "def"}
    sweep, out = as_if(copy, "google/gemma-2-2b", **dataset), tmp_path / "out"
    card = publish(sweep, TRIAL, out)
    head = ModelCard.load(out / "README.md").data.to_dict()
    assert (head["license"], head["base_model"], head["datasets"]) == ("gemma", "google/gemma-2-2b", ["ada/text"])
    assert "# Distilled Matryoshka SAE: gemma-2-2b, layer 1, k = 4" in card
    data = cells(card, "What it was trained on")
    assert data["Text"] == ["[ada/text](https://huggingface.co/datasets/ada/text), subset `en`, split `train`"]
    assert card.count("| - revision | `abc` |") == card.count("| - revision | `def` |") == 1
    told = json.loads((out / "saelens" / "cfg.json").read_text())["metadata"]
    assert (told["model_name"], told["dataset_path"]) == ("gemma-2-2b", "ada/text")
    assert (told["model_revision"], told["dataset_revision"], told["dataset_subset"]) == ("abc", "def", "en")


def test_a_model_of_the_hub_without_an_owner(copy: Path, tmp_path: Path) -> None:
    card = publish(as_if(copy, "gpt2"), TRIAL, tmp_path / "out")
    assert "[gpt2](https://huggingface.co/gpt2)" in card and "which is not public" in card
    assert ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()["base_model"] == "gpt2"
    assert cells(card, "What it was trained on")["Text"] == ["`texts.txt`, which is not public"]


HOSTILE = "</script><img src=x>\n# Free money\n---\nlicense: mit | `a` ``b``"


def test_names_cannot_break_the_card(copy: Path, tmp_path: Path) -> None:
    local = tmp_path / "mödel`\n# Hello <b>"
    local.mkdir()
    dataset = {"source": "huggingface", "path": f"./{HOSTILE}", "subset": HOSTILE, "split": "träin|", "revision": "a`b"}
    out = tmp_path / "out"
    sweep = as_if(copy, str(local), **dataset)
    card = publish(sweep, TRIAL, out, "--license", "mit")
    head = ModelCard.load(out / "README.md").data.to_dict()
    assert head["license"] == "mit" and "base_model" not in head and "datasets" not in head
    assert json.loads((out / "saelens" / "cfg.json").read_text())["metadata"]["dataset_path"] is None
    assert card.count("\n# ") + card.startswith("# ") == 1 and "\n---\n" not in card
    # Outside of code there is nothing of it.
    plain = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", card)
    assert not {word for word in ("<img", "<b>", "Free money", "huggingface.co/datasets") if word in plain}
    rows = [line for line in section(card, "What it was trained on").splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert all(str(tmp_path).encode() not in content for _, content in texts(out))


def test_an_unknown_licence_is_asked_for_before_an_upload_only(
    copy: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = as_if(copy, "someone/model")
    assert "--license is missing; the licence of 'someone/model' is not known" in refused(
        capsys, sweep, TRIAL, "--repo", REPO
    )
    assert hub.requests == [] and not (sweep / "publish").exists()
    card = publish(sweep, TRIAL, tmp_path / "out")
    assert section(card, "Licence").startswith("unknown: ")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()["license"] == "unknown"


def test_files_arrive_byte_for_byte_and_load_in_three_libraries(
    made: Sweeps, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for peer in ("sae_lens", "dictionary_learning"):
        # Other tests of this process may have it with modules that stand in for what it needs, and without a spec.
        if peer not in sys.modules and find_spec(peer) is None:
            left_out(f"needs {peer}: see tests/benchmarks/peers.py for what to install")
    out = tmp_path / "out"
    card = publish(made.cycles, TRIAL, out, "--repo", REPO)
    arrived = hub.files(REPO)
    assert arrived == dict(texts(out)) and set(arrived) == WRITTEN
    commit = hub.repos["models", REPO].refs["main"]
    assert f"published: {hub.url}/{REPO} (commit {commit})" in capsys.readouterr().out
    assert "placeholder" not in card
    found = run_snippets(card, hub, tmp_path)
    sae = load_sae(snapshot_download(REPO) + "/dmsae")
    expected = sae.encode(found["x"]).detach()
    assert expected.count_nonzero() > 5
    for library in ("sae_lens", "dictionary_learning", "dmsae_ray"):
        assert torch.allclose(found[library].detach(), expected, atol=1e-6), library
    assert torch.equal(found["core"], load_core(out / "core.safetensors").rows)


def run_snippets(card: str, hub: Hub, tmp_path: Path) -> dict[str, Any]:
    """Run the card's own code in a process that knows only the Hub; its latents by library, x and the core's rows."""
    first, *rest = re.findall(r"```python\n(.*?)```", section(card, "Load it"), re.DOTALL)
    snippets = {library: code for code in rest for library in PEERS if f"from {library}" in code.splitlines()[0]}
    assert len(snippets) == len(rest) == 3
    program = tmp_path / "snippets.py"
    program.write_text(
        "import sys, torch\n"
        "from tests.benchmarks.peers import empty_modules\n"
        "empty_modules().__enter__()\n"
        f"first, snippets = {first!r}, {snippets!r}\n"
        "found = {}\n"
        "for library, code in snippets.items():\n"
        "    names = {}\n"
        "    torch.manual_seed(0)\n"
        "    exec(first, names)\n"
        "    exec(code, names)\n"
        "    found[library], found['x'] = names['latents'], names['x']\n"
        "    found |= {'core': names['core'].rows} if 'core' in names else {}\n"
        "torch.save(found, sys.argv[1])\n"
    )
    env = {**os.environ, **hub.environment(str(tmp_path / "fresh")), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "found.pt")],
        env=env,
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = torch.load(tmp_path / "found.pt", weights_only=True)
    return found


PEERS = ("sae_lens", "dictionary_learning", "dmsae_ray")


def test_who_may_not_upload_is_told_in_one_line(
    made: Sweeps, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [made.cycles, TRIAL, "--out", tmp_path / "out", "--repo"]
    monkeypatch.setenv("HF_TOKEN", "")
    line = refused(capsys, *common, REPO)
    assert "there is no login of the Hub: set HF_TOKEN" in line and "the folder is kept" in line
    assert {name for name, _ in texts(tmp_path / "out")} == WRITTEN and hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the Hub does not accept the token" in refused(capsys, *common, REPO)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "may not write there" in refused(capsys, *common, "somebody/else")
    assert hub.repos == {}


def test_an_upload_that_was_cut_off_goes_on(
    made: Sweeps, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [made.cycles, TRIAL, "--out", tmp_path / "out", "--repo", REPO, "--private"]
    hub.fault = lambda method, path: 500 if "/commit/" in path else None
    assert "the Hub cannot be reached" in refused(capsys, *common)
    assert hub.objects and not hub.repos["models", REPO].commits
    hub.fault = lambda method, path: None
    hub.requests.clear()
    assert main(["publish", *map(str, common)]) == 0
    assert not [request for request in hub.requests if request.startswith("PUT")], "the large files are there already"
    assert hub.files(REPO) == dict(texts(tmp_path / "out")) and hub.repos["models", REPO].private
    before = dict(hub.repos["models", REPO].commits)
    (tmp_path / "out" / "letter.txt").write_text("dear")
    assert main(["publish", *map(str, common)]) == 0
    assert hub.repos["models", REPO].commits == before, "nothing has changed, and no other file is uploaded"
