"""Names that say nothing of a machine."""

import pytest

from dmsae_ray.files.public_names import public_name


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("google/gemma-2-2b", "google/gemma-2-2b"),
        ("user/repo@main/dmsae", "user/repo@main/dmsae"),
        ("gpt2", "gpt2"),
        ("hf://datasets/a/b/c.parquet", "hf://datasets/a/b/c.parquet"),
        ("/nowhere/ann/models/mine", "mine"),
        ("~/models/mine/", "mine"),
        ("../texts.txt", "texts.txt"),
        ("s3://bucket/path/texts?endpoint_override=host", "texts"),
    ],
)
def test_public_names(place: str, name: str) -> None:
    assert public_name(place) == name
