"""Upload files of a folder to the Hugging Face Hub; who may is decided by the login of the environment."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsae_ray.errors import ConfigError, DmsaeError, TransientError, one_line
from dmsae_ray.files.faults import http_status, passes, root_message


@dataclass(frozen=True)
class Uploaded:
    """What an upload made.

    Attributes:
        address: The repository's page.
        commit: The commit with the files, 40 hex digits.
    """

    address: str
    commit: str


def check_repo_name(repo: str) -> None:
    """Check the name of a repository; nothing is asked over the network.

    Raises:
        ConfigError: It is not user/name, or has characters that the Hub does not take.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in its __all__

    try:
        validate_repo_id(repo)
        fits = repo.count("/") == 1
    except HFValidationError:
        fits = False
    if not fits:
        raise ConfigError(
            f"--repo is '{repo}'; it must be user/name, of letters, digits, '-', '_' and '.', at most 96 of them"
        )


def upload_files(folder: Path, names: Sequence[str], repo: str, *, private: bool, message: str) -> Uploaded:
    """Upload files in one commit to a repository of the Hub, which is made if it is missing.

    What a call that was cut off has uploaded is not uploaded again. Other files of the repository stay.

    Args:
        folder: Holds the files.
        names: Their paths below the folder; no other file is read.
        repo: user/name.
        private: Whether a new repository is private; one that is there stays as it is.
        message: Message of the commit.

    Raises:
        ConfigError: There is no login, or it may not write there, or the Hub refuses a file.
        TransientError: The Hub cannot be reached.
    """
    check_repo_name(repo)
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    token = get_token()
    if not token:
        raise ConfigError(
            f"--repo is '{repo}'; there is no login of the Hub: set HF_TOKEN to a token that may write, or run "
            "`hf auth login`"
        )
    api = HfApi(token=token)
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        made = api.upload_folder(
            repo_id=address.repo_id, folder_path=folder, allow_patterns=list(names), commit_message=message
        )
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise _told(error, repo, token) from None
    return Uploaded(str(address), made.oid)


def _told(error: Exception, repo: str, token: str) -> DmsaeError:
    status = http_status(error)
    said = root_message(error).replace(token, "***")
    if passes(error):
        return TransientError(f"--repo is '{repo}'; the Hub cannot be reached ({said})")
    if status == 401 or isinstance(error, UnicodeError):  # a token of letters that no header takes
        return ConfigError(f"--repo is '{repo}'; the Hub does not accept the token; give one that may write")
    if status in (403, 404):
        return ConfigError(f"--repo is '{repo}'; the Hub's login may not write there: give a name of your own user")
    return ConfigError(f"--repo is '{repo}'; the Hub refuses the upload ({one_line(said, 200)})")
