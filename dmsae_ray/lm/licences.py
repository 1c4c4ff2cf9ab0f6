"""Under which licence a language model is, as far as it is known without asking the network."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

_FAMILIES = (
    (r"google/gemma-(?:1\.1-|2-|3-)?\d+[bm](?:-.*)?", "gemma"),
    (r"meta-llama/Llama-2-.*", "llama2"),
    (r"meta-llama/Meta-Llama-3-.*", "llama3"),
    (r"meta-llama/(?:Meta-)?Llama-3\.1-.*", "llama3.1"),
    (r"meta-llama/Llama-3\.2-.*", "llama3.2"),
    (r"meta-llama/Llama-3\.3-.*", "llama3.3"),
    (r"EleutherAI/(?:pythia-|gpt-neox-20b).*", "apache-2.0"),
    (r"EleutherAI/gpt-neo-.*", "mit"),
    (r"(?:openai-community/)?gpt2(?:-medium|-large|-xl)?", "mit"),
    (r"mistralai/Mistral-7B-.*", "apache-2.0"),
    (r"Qwen/Qwen2\.5-(?:0\.5|1\.5|7|14|32)B(?:-Instruct)?", "apache-2.0"),
    (r"Qwen/Qwen3-[\d.]+B(?:-Base)?", "apache-2.0"),
    (r"allenai/OLMo-.*", "apache-2.0"),
    (r"HuggingFaceTB/SmolLM.*", "apache-2.0"),
    (r"microsoft/phi-(?:1|1_5|2)", "mit"),
)
"""Models of the Hub, as regular expressions, with the licence that their pages name."""


_MOST_CHARACTERS = 40
_README = "the model's own README says"


@dataclass(frozen=True)
class Licence:
    """A licence.

    Attributes:
        id: Its id on the Hub, such as 'apache-2.0'.
        source: Who says so, in words that follow an "as".
        name: Its own name, where the id is 'other'.
        link: Where it can be read, where the id is 'other'.
    """

    id: str
    source: str
    name: str | None = None
    link: str | None = None


def licence_of(model: str, revision: str | None = None) -> Licence | None:
    """Return the licence of a language model; None where it is not known on this machine.

    It is read from the model's README, in its folder or in the Hub's cache; else models of well-known families are in a
    table.

    Args:
        model: 'tiny', a Hub id, or a local folder.
        revision: Hub revision.
    """
    if model == "tiny":
        return Licence("mit", "dmsae_ray is")
    said = _in_readme(model, revision)
    if said is not None:
        return said
    known = next((licence for names, licence in _FAMILIES if re.fullmatch(names, model)), None)
    return None if known is None else Licence(known, "its page on the Hub names it (from a table in dmsae_ray)")


def is_licence_id(text: str) -> bool:
    """Return whether a text can be the id of a licence on the Hub; which ids it takes is its own list."""
    return re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text) is not None and len(text) <= _MOST_CHARACTERS


def _in_readme(model: str, revision: str | None) -> Licence | None:
    path = Path(model).expanduser() / "README.md"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(model, "README.md", revision=revision)
        except HFValidationError:
            return None
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    try:
        found = re.match(r"---\s*\n(.*?)\n---", path.read_text(encoding="utf-8"), re.DOTALL)
        head = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    said = {} if not isinstance(head, dict) else {k: v.strip() for k, v in head.items() if isinstance(v, str)}
    name, link = said.get("license_name"), said.get("license_link")
    if not is_licence_id(licence := said.get("license", "").lower()):
        return None
    if licence != "other":
        return Licence(licence, _README)
    if link is not None and "://" not in link:  # a file of the model's repository
        link = f"https://huggingface.co/{model}/blob/main/{link}" if path.parent != Path(model).expanduser() else None
    # Without its name the Hub does not show which one it is.
    return None if name is None else Licence(licence, _README, name, link)
