"""What README.md says can be done, can be done."""

import re
from pathlib import Path

import pytest

from dmsae_ray.cli.commands import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("python")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert (tmp_path / "my-sae" / "config.json").is_file()
    again = scope["again"]
    assert getattr(again, "n_core") == len(scope["core"]) > 0  # type: ignore[arg-type]  # noqa: B009


def test_every_command_of_the_table_exists(capsys: pytest.CaptureFixture[str]) -> None:
    named = re.findall(r"^\| `dmsae (\w+)", README, flags=re.M)
    assert len(named) > 8
    for name in named:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert name in capsys.readouterr().out


def test_every_link_and_picture_is_in_the_repository() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_every_sweep_file_is_named() -> None:
    for path in (ROOT / "sweeps").glob("figure*.yaml"):
        assert path.name in README


def test_the_first_experiment_has_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, axes, given = blocks("yaml")
    (tmp_path / "first.yaml").write_text(first)
    assert main(["plan", str(tmp_path / "first.yaml")]) == 0
    assert "first: google/gemma-2-2b" in capsys.readouterr().out
    (tmp_path / "axes.yaml").write_text(first.replace("sweep: {k: [40, 80], seeds: [0, 1, 2]}\n", axes))
    assert main(["plan", str(tmp_path / "axes.yaml")]) == 0
    said = capsys.readouterr().out
    assert "  trials      36: k40-tau0.9-quantile0.99-layer11-core_sparsity-dense-seed0, " in said
    assert "the sweep has 3 stores, made and used one after the other: layer=11; layer=12; layer=13" in said
    both = f"{first}{given}".replace("distill: {cycles: 3}\n", "").replace("k: [40, 80]", "k: [20, 40]")
    (tmp_path / "given.yaml").write_text(both)
    assert main(["plan", str(tmp_path / "given.yaml")]) == 0
    said = capsys.readouterr().out
    assert (
        all(f"distill.initial_sae.{k} 'hf://adamkarvonen/" in said for k in (20, 40)) and "a place on the Hub" in said
    )


def test_the_plan_that_is_shown_is_what_the_command_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (command,) = re.findall(r"^dmsae (plan \S+ --cluster .*)$", README, flags=re.M)
    (shown,) = (block for block in blocks("text") if "GPU-hours" in block)
    assert main(command.split()) == 0
    assert set(shown.splitlines()) <= set(capsys.readouterr().out.splitlines())
