"""The licence of a language model, from its own README or from the table of families."""

from pathlib import Path

import pytest

from dmsae_ray.lm.licences import licence_of
from tests.hub_server import hub_server, use


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("google/gemma-2-2b", "gemma"),
        ("google/gemma-3-1b-it", "gemma"),
        ("meta-llama/Llama-3.2-1B", "llama3.2"),
        ("meta-llama/Meta-Llama-3-8B", "llama3"),
        ("EleutherAI/pythia-70m-deduped", "apache-2.0"),
        ("openai-community/gpt2", "mit"),
        ("Qwen/Qwen2.5-7B", "apache-2.0"),
        ("tiny", "mit"),
    ],
)
def test_families(model: str, licence: str) -> None:
    found = licence_of(model)
    assert found is not None and found.id == licence


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-3B", "someone/gemma-2-2b", "google/other", "/no/such/model"])
def test_what_is_not_known_is_not_guessed(model: str) -> None:
    assert licence_of(model) is None


@pytest.mark.parametrize(
    ("readme", "licence"),
    [("---\nlicense: cc-by-4.0\n---\n# Model\n", "cc-by-4.0"), ("# Model\n", None), ("---\n: [\n---\n", None)],
)
def test_the_readme_of_a_folder(tmp_path: Path, readme: str, licence: str | None) -> None:
    (tmp_path / "README.md").write_text(readme)
    found = licence_of(str(tmp_path))
    assert (None if found is None else found.id) == licence


def test_the_readme_in_the_cache_of_the_hub_is_before_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hf_hub_download

    with hub_server() as hub:
        use(hub, monkeypatch, str(tmp_path))
        hub.commit("google/gemma-2-2b", {"README.md": b"---\nlicense: another\n---\n"})
        hf_hub_download("google/gemma-2-2b", "README.md")
        hub.requests.clear()
        found = licence_of("google/gemma-2-2b")
        assert found is not None and (found.id, found.source) == ("another", "the model's own README says")
        assert hub.requests == [], "the network is not asked"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("license: Apache-2.0", ("apache-2.0", None, None)),
        (
            "license: other\nlicense_name: qwen-research\nlicense_link: https://a.b/c",
            ("other", "qwen-research", "https://a.b/c"),
        ),
        ("license: other\nlicense_name: mine\nlicense_link: LICENSE", ("other", "mine", None)),
        ("license: other", None),
        ('license: "mit\\n# heading"', None),
        ("license: [mit, apache-2.0]", None),
    ],
)
def test_a_licence_that_is_not_in_the_hub_s_list(
    head: str, expected: tuple[str, str | None, str | None] | None, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
    found = licence_of(str(tmp_path))
    assert (None if found is None else (found.id, found.name, found.link)) == expected
