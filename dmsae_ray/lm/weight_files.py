"""Whether the files of a model in a local folder are there and whole; of weights only the heads are read."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.lm.description import ALLOWED

_NAMES = ("model.safetensors", "pytorch_model.bin")
"""What transformers reads, in its order; each name may also be that of an index, with .index.json behind it."""


def is_configuration_only(model: str) -> bool:
    """Return whether a model is a folder on this machine that holds neither weights nor a tokenizer."""
    folder = Path(model).expanduser()
    kinds = (".safetensors", ".bin", ".index.json", "tokenizer.json", ".model", "vocab.json", "vocab.txt")
    return folder.is_dir() and not any(path.name.endswith(kinds) for path in folder.iterdir())


def check_files(model: str) -> None:
    """Check that a model in a local folder has its weights and a tokenizer, and that no safetensors file is cut off.

    Of a model that is not in a folder nothing is checked: what the Hub's cache lacks is fetched.

    Raises:
        ConfigError: they are not there or not whole; one line.
    """
    folder = Path(model).expanduser()
    if model == "tiny" or not folder.is_dir():
        return
    for name in _weights(folder):
        path, problem = folder / name, ""
        if not path.is_file():
            problem = f"lacks the file {name}, which the index of its weights names"
        elif path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="numpy"):
                    pass
            except (OSError, SafetensorError) as error:
                problem = f"has a file {name} that is truncated or of another format ({one_line(error)})"
        if problem:
            raise ConfigError(f"model.name '{folder}' {problem}; {ALLOWED}")
    from dmsae_ray.lm.tokenizer import load_tokenizer

    load_tokenizer(model)


def _weights(folder: Path) -> list[str]:
    """Return the names of the files that transformers would read the weights from."""
    for name in _NAMES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [name]
        if index.is_file():
            try:
                places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                return sorted({str(file) for file in places.values()})
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise ConfigError(
                    f"model.name '{folder}': its {index.name} is no index of weights; {ALLOWED}"
                ) from None
    raise ConfigError(f"model.name '{folder}' is a folder without weights ({' or '.join(_NAMES)}); {ALLOWED}")
