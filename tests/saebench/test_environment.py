"""SAEBench's environment cannot be made, or its process fails: one line, and nothing half made stays."""

import sys
from pathlib import Path

import pytest

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.saebench import environment
from dmsae_ray.saebench.job import Job, Outcome, read_outcome, run_job

JOB = Job("core", "/nowhere", "tiny", None, "tiny", 1, 64, "float32", 4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMSAE_CACHE", str(tmp_path / "cache"))


def test_a_package_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text("there-is-no-such-package-dmsae==1.0\n")
    monkeypatch.setattr(environment, "LOCK", lock)
    said: list[str] = []
    with pytest.raises(ConfigError) as raised:
        environment.make_environment(said.append)
    message = str(raised.value)
    assert message.startswith("SAEBench's environment cannot be made: pip failed: ERROR: ") and "\n" not in message
    log = Path(message.rpartition("all of it: ")[2].rstrip(")"))
    assert "there-is-no-such-package-dmsae" in log.read_text()
    assert environment.ready_python() is None and not environment.environment_folder().exists()
    assert len(said) == 1 and str(environment.environment_folder()) in said[0]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DMSAE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match=r"^SAEBench's environment cannot be made in .*: Not a directory$"):
        environment.make_environment(lambda _: None)


def test_a_python_for_which_numpy_1_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.PYTHON_VARIABLE, "no-such-python")
    with pytest.raises(ConfigError, match=r"^DMSAE_SAEBENCH_PYTHON is 'no-such-python'; there is no such program$"):
        environment.make_environment(lambda _: None)
    monkeypatch.delenv(environment.PYTHON_VARIABLE)
    monkeypatch.setattr(environment, "_PYTHONS", ((2, 6),))
    with pytest.raises(ConfigError, match=r"^SAEBench needs numpy 1, which is not built for Python 3\.\d+: install "):
        environment.make_environment(lambda _: None)


def test_another_lock_file_is_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.environment_folder()
    lock = tmp_path / "requirements.txt"
    lock.write_text("numpy==1.26.4\n")
    monkeypatch.setattr(environment, "LOCK", lock)
    assert environment.environment_folder() != before


def test_a_process_that_fails_says_why_in_a_line() -> None:
    outcome = run_job(JOB, Path(sys.executable))  # an environment without SAEBench
    assert outcome.metrics == {} and outcome.error.startswith("ModuleNotFoundError: No module named '")
    assert "Traceback" in outcome.log and outcome.seconds > 0


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    assert run_job(JOB, killed).error == "its process was ended by signal 9 (out of memory?)"


def test_no_key_is_in_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-told")
    tells = tmp_path / "python"
    tells.write_text('#!/bin/sh\necho "AuthenticationError: key $OPENAI_API_KEY"\nexit 1\n')
    tells.chmod(0o755)
    outcome = run_job(JOB, tells)
    assert outcome.error == outcome.log == "AuthenticationError: key (OPENAI_API_KEY)"


@pytest.mark.parametrize("text", ["{}", "[]", '{"outcome": 3}', '{"outcome": {"metrics": {"l0": "x"}}}', "{"])
def test_a_damaged_outcome_is_told(text: str) -> None:
    with pytest.raises(DataError, match=r"^here is damaged \(\w+\)$"):
        read_outcome(text.encode(), "here")


def test_an_outcome_is_read() -> None:
    whole = read_outcome(b'{"outcome": {"metrics": {"l0": 3.0}, "versions": {}, "device": "cpu", "seconds": 1}}', "")
    assert whole == Outcome({"l0": 3.0}, {}, "cpu", 1)
