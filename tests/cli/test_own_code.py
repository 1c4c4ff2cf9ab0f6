"""The key of a replica depends on all of the user's own source that decides its numbers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmsae_ray.cli.own_code import own_function, source_hash
from dmsae_ray.errors import ConfigError

MAIN = """
import functools
from pack_of_mine import helpers, deep
def helper(sae): return 1
def score(sae, source): return helper(sae) + helpers.more(sae)
class Scorer:
    def __call__(self, sae, source): return helper(sae)
scorer = Scorer()
part = functools.partial(lambda n, sae, source: n, 1)
length = len
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """A module `mine`, and a package with modules that it uses, one of them through another."""
    package = tmp_path / "pack_of_mine"
    package.mkdir()
    texts = {
        "mine.py": MAIN,
        "pack_of_mine/__init__.py": "",
        "pack_of_mine/helpers.py": "def more(sae):\n    from . import lower\n    return lower.one",
        "pack_of_mine/lower.py": "one = 1",
        "pack_of_mine/deep.py": "import torch",
        "pack_of_mine/unused.py": "two = 2",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield {Path(name).stem: tmp_path / name for name in texts}
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("mine", "pack_of_mine"):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["score", "scorer", "part", "length"])
def test_a_change_of_a_helper_is_seen_wherever_it_lies(files: dict[str, Path], name: str) -> None:
    text = f"mine:{name}"
    assert callable(own_function("--scorer", text))
    found = [source_hash("--scorer", text)]
    assert source_hash("--scorer", text) == found[0]
    for module in ("mine", "helpers", "lower", "deep"):
        files[module].write_text(files[module].read_text() + "\n# changed")
        found.append(source_hash("--scorer", text))
    assert len(set(found)) == 5
    files["unused"].write_text("two = 3")
    assert source_hash("--scorer", text) == found[-1] != source_hash("--scorer", "mine:other")


def test_what_has_no_source_is_refused_and_bad_modules_are_one_line(files: dict[str, Path]) -> None:
    own_function("--scorer", "math:dist")
    with pytest.raises(ConfigError, match=r"^--scorer is 'math:dist'; 'math' has no source file \(.py\), so that no"):
        source_hash("--scorer", "math:dist")
    files["unused"].write_text("1 +")
    with pytest.raises(
        ConfigError, match=r"^--world is 'pack_of_mine.unused:f'; it cannot be imported \(invalid syntax"
    ):
        own_function("--world", "pack_of_mine.unused:f")
