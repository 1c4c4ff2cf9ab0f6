"""Files of model repositories on the Hugging Face Hub: which place a text means, and its files on this machine.

The Hub's own client downloads and keeps them. It takes the login, the cache and the address from where it always takes
them: HF_TOKEN or `hf auth login`, HF_HOME, HF_ENDPOINT; with HF_HUB_OFFLINE only its cache is read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files.faults import http_status, never_reached, passes, root_message
from dmsae_ray.files.retry import HUB, call_with_retries

HUB_SCHEME = "hf://"
HUB_FORM = "user/repo[@revision][/folder]"
"""How a place on the Hub is written."""

_NAME = r"(?![^/@]*\.git(?:[/@]|$))[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_PLACE = re.compile(
    rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>refs/pr/\d+|refs/convert/[\w.-]+|[^/@]+))?(?:/(?P<path>.+))?"
)
_KINDS = ("datasets", "spaces", "buckets", "kernels")
_SECONDS = 10.0  # for the first answer, as the Hub's client waits for that of a file
_MOST_LISTED, _MOST_CHARACTERS = 6, 96
_LOGIN = "HF_TOKEN or `hf auth login`"


@dataclass(frozen=True)
class HubPlace:
    """A folder or a file in a model repository on the Hub.

    Attributes:
        repo: Id of the repository, 'user/repo'.
        revision: Branch, tag, commit or ref ('refs/pr/1'); None for the branch main.
        path: The folder or file in the repository; empty for the whole of it.
    """

    repo: str
    revision: str | None = None
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "HubPlace | None":
        """Read `HUB_FORM`, with or without hf:// in front; None if the text has another form.

        A revision with a slash is quoted (`@my%2Fbranch`), but for refs/pr/N and refs/convert/NAME, as in hf:// URIs.
        """
        body = text.removeprefix(HUB_SCHEME).removeprefix("models/")
        found = _PLACE.fullmatch(body.rstrip("/"))
        if found is None or re.search(r"--|\.\.", found["repo"]) or len(found["repo"]) > _MOST_CHARACTERS:
            return None
        path, revision = found["path"] or "", None if found["revision"] is None else unquote(found["revision"])
        # Both become parts of paths in the cache of the Hub's client.
        unfit = [part in ("", ".", "..") for part in re.split(r"[/\\]", f"{path or 'a'}/{revision or 'a'}")]
        if found["repo"].partition("/")[0] in _KINDS or any(unfit) or not f"{path}{revision}".isprintable():
            return None
        return cls(found["repo"], revision, path)

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{quote(self.revision, safe='')}"
        return f"{self.repo}{revision}{'/' if self.path else ''}{self.path}"


@dataclass(frozen=True)
class HubFiles:
    """Files of the Hub on this machine, in the cache of its client.

    Attributes:
        folder: The folder that holds them.
        names: Their names.
        commit: The commit that they are of, 40 hex digits.
    """

    folder: Path
    names: tuple[str, ...]
    commit: str


def hub_place(text: str) -> HubPlace | None:
    """Return the place on the Hub that a text means; None if it means a path on this machine or another URI.

    What begins with '/', '.' or '~', and what exists here as a path, is a path.
    """
    if text.startswith(HUB_SCHEME):
        return HubPlace.parse(text)
    if text.startswith(("/", ".", "~")) or "://" in text or _is_here(text):
        return None
    return HubPlace.parse(text)


def fetch_from_hub(place: HubPlace, kinds: Sequence[Sequence[str]], what: str) -> HubFiles:
    """Download files of a folder on the Hub, or find them in the cache of the Hub's client.

    What is in the cache is used where the Hub cannot be reached. An outage is waited for as `call_with_retries` does;
    a Hub that cannot be reached at all is said at once.

    Args:
        place: The folder.
        kinds: Names of files, kind by kind. Those of the first kind whose first name is in the folder are downloaded,
            as far as they are there.
        what: What is read, for messages: a field with its value, as "transfer.core is 'user/repo'".

    Raises:
        ConfigError: There is no such repository for this login, no such revision, or no such file.
        DataError: The Hub cannot be reached, or refuses.
        TransientError: The Hub does not answer.
    """
    return call_with_retries(lambda: _fetched(place, kinds, what), what, HUB)


def find_in_hub_cache(place: HubPlace, kinds: Sequence[Sequence[str]]) -> HubFiles | None:
    """Return files of the Hub that are in the cache of its client, as `fetch_from_hub` does; None if they are not.

    The Hub is not asked.
    """
    from huggingface_hub import try_to_load_from_cache

    def find(name: str, revision: str | None) -> Path | None:
        found = try_to_load_from_cache(place.repo, _join(place.path, name), revision=revision)
        return Path(found) if isinstance(found, str) else None

    for first, *others in kinds:
        found = find(first, place.revision)
        if found is not None:
            commit = _commit_of(found, place)
            names = (first, *(name for name in others if find(name, commit) is not None))
            # The first alone says only which kind it is: the download of the others was cut off.
            return HubFiles(found.parent, names, commit) if len(names) > 1 or not others else None
    return None


def _fetched(place: HubPlace, kinds: Sequence[Sequence[str]], what: str) -> HubFiles:
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        about = HfApi().model_info(place.repo, revision=place.revision, timeout=_SECONDS)
        names = _chosen(place, kinds, [file.rfilename for file in about.siblings or ()], what)
        # By the name of the branch, so that the client notes what it means, for times without a network.
        first = Path(hf_hub_download(place.repo, _join(place.path, names[0]), revision=place.revision))
        commit = about.sha or _commit_of(first, place)
        # Again the first one: the branch may have moved, or the client has given an older file for want of an answer.
        for name in names if commit != _commit_of(first, place) else names[1:]:
            first = Path(hf_hub_download(place.repo, _join(place.path, name), revision=commit))
        return HubFiles(first.parent, names, commit)
    except GatedRepoError:  # a kind of RepositoryNotFoundError
        raise ConfigError(
            f"{what}; repository '{place.repo}' is gated: ask for access on its page, and log in ({_LOGIN})"
        ) from None
    except RepositoryNotFoundError:
        raise ConfigError(
            f"{what}; there is no such path here, and the Hub has no model repository '{place.repo}', or one that is "
            f"private and not for the login of this machine ({_LOGIN})"
        ) from None
    except RevisionNotFoundError:
        raise ConfigError(f"{what}; repository '{place.repo}' has no revision '{place.revision}'") from None
    except (ConfigError, DataError):
        raise
    except Exception as error:
        offline = bool(constants.HF_HUB_OFFLINE)
        if not (offline or never_reached(error)) and passes(error):
            raise
        cached = find_in_hub_cache(place, kinds) if offline or never_reached(error) else None
        if cached is not None:
            return cached
        if offline:
            said = "HF_HUB_OFFLINE is set, and it is not in the Hub's cache"
        elif isinstance(error, UnicodeError) or http_status(error) == 401:  # a token of letters that no header takes
            said = f"the Hub does not accept the login of this machine: mend or remove it ({_LOGIN})"
        elif never_reached(error):
            said = f"the Hub cannot be reached ({root_message(error)})"
        elif isinstance(error, OSError) and error.errno is not None:
            said = f"the cache of the Hub's client cannot be written ({root_message(error)}; HF_HOME says where it is)"
        else:
            said = f"the Hub refuses it ({root_message(error)})"
        raise DataError(f"{what}; there is no such path here, and {said}") from None


def _chosen(place: HubPlace, kinds: Sequence[Sequence[str]], files: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the names of the kind that the folder holds."""
    start = _join(place.path, "")
    inside = [name.removeprefix(start) for name in files if name.startswith(start)]
    for kind in kinds:
        if kind[0] in inside:
            return tuple(name for name in kind if name in inside)
    there = list(dict.fromkeys(name.partition("/")[0] for name in inside))
    of_repo = f"repository '{place.repo}'" + (f" at revision '{place.revision}'" if place.revision else "")
    if place.path and not there:
        raise ConfigError(f"{what}; {of_repo} has no folder '{place.path}'")
    more = [f"and {len(there) - _MOST_LISTED} more"] if len(there) > _MOST_LISTED else []
    holds = ", ".join([*there[:_MOST_LISTED], *more]) or "nothing"
    wanted = " or ".join(kind[0] for kind in kinds)
    raise ConfigError(f"{what}; {of_repo} has no {wanted} in '{place.path or '/'}': it holds {holds}")


def _commit_of(file: Path, place: HubPlace) -> str:
    """Return the commit of a file in the cache, <cache>/models--user--repo/snapshots/<commit>/<path>."""
    return file.parents[len(place.path.split("/")) if place.path else 0].name


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_here(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long a name, a null byte
        return False
