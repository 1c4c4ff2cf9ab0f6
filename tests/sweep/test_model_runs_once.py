"""How often the language model runs over each context of a sweep: counted where it runs, in whichever process."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from dmsae_ray.activations.files import Folder
from dmsae_ray.activations.records import SPLITS, shard_name
from dmsae_ray.activations.token_files import read_layout, read_tokens
from tests.sweep.conftest import environment, sweep_folder, write_config

COUNTING = Path(__file__).parent / "counting"


def contexts(store: Path) -> dict[str, list[str]]:
    """Hashes of the contexts of each split, as `counting` makes them."""
    folder = Folder(str(store))
    layout = read_layout(folder)
    assert layout is not None
    found: dict[str, list[str]] = {}
    for split in SPLITS:
        shards = [read_tokens(folder, layout, shard_name(split, i)).tokens for i in range(layout.shards(split))]
        found[split] = [hashlib.sha256(row.astype("int64").tobytes()).hexdigest() for rows in shards for row in rows]
    return found


def test_the_model_runs_once_over_each_context_and_once_more_over_eval_for_each_sae(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    counts.mkdir()
    config = write_config(tmp_path, distill={"cycles": 1})
    done = subprocess.run(
        [sys.executable, "-m", "dmsae_ray.cli", "sweep", str(config)],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(COUNTING), "DMSAE_TEST_COUNTS": str(counts)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = Counter(line for file in counts.iterdir() for line in file.read_text().split())

    (store,) = (tmp_path / "runs" / "stores").iterdir()
    expected = contexts(store)
    assert all(len(set(of_split)) == len(of_split) for of_split in expected.values())
    trials = list((sweep_folder(tmp_path) / "trials").glob("*/summary.json"))
    assert len(trials) == 2
    # Cycle 0 of both trials is one SAE; cycle 1 and the control are two each.
    saes = len([p for p in (tmp_path / "runs" / "cycles").iterdir() if not p.name.startswith(".")])
    assert saes == 1 + 2 * 2
    evaluated = sum(
        not record["cached"]
        for path in trials
        for summary in [json.loads(path.read_text())]
        for record in [*summary["records"], *summary["controls"].values()]
    )
    assert evaluated == saes
    for split, often in (("train", 1), ("attribution", 1), ("eval", 1 + 2 + saes)):  # harvest; clean, ablated; spliced
        assert {seen[context] for context in expected[split]} == {often}, split
    assert sum(seen.values()) == sum(len(expected[s]) for s in SPLITS) + (2 + saes) * len(expected["eval"])
