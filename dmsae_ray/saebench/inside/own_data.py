"""Labelled texts of the user's own, in the place of the benchmark's data sets."""

import json
import random
from pathlib import Path
from typing import Any

import sae_bench.sae_bench_utils.dataset_info as dataset_info
import sae_bench.sae_bench_utils.dataset_utils as dataset_utils

_TRAIN = 0.8
"""Share of the texts of a class that probes are fitted on."""


def put_in_place(folder: Path, config: Any, sizes: tuple[str, str]) -> None:
    """Let an evaluation read `<name>.jsonl` files ({"text", "label"}) and no other data.

    Args:
        folder: holds the files; each is a data set.
        config: the evaluation's, whose data sets and sizes are set.
        sizes: names of its fields for the sizes of training and test set.
    """
    read = {path.stem: _by_label(path) for path in sorted(folder.glob("*.jsonl"))}
    config.dataset_names = list(read)
    least = min(len(texts) for data in read.values() for texts in data.values())
    train = int(_TRAIN * least)
    # SAEBench's sizes are of two classes together, and a multiple of four.
    for name, count in zip(sizes, (train, least - train), strict=True):
        setattr(config, name, min(getattr(config, name), 2 * count // 4 * 4))
    for name, data in read.items():
        dataset_info.chosen_classes_per_dataset[name] = sorted(data)

    def split(dataset_name: str, train_set_size: int, test_set_size: int, random_seed: int) -> Any:
        train, test = {}, {}
        for label, texts in read[dataset_name].items():
            drawn = random.Random(f"{random_seed} {label}").sample(texts, len(texts))
            train[label] = drawn[: train_set_size // 2]
            test[label] = drawn[train_set_size // 2 : train_set_size // 2 + test_set_size // 2]
        return train, test

    dataset_utils.get_multi_label_train_test_data = split


def _by_label(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if not line.strip():
            continue
        row = json.loads(line)
        found.setdefault(str(row["label"]), []).append(row["text"])
    return found
