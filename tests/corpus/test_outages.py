"""A Hub that is down for a while: waited for wherever it is asked, and nothing is lost or read twice."""

import errno
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmsae_ray.config.sections import CorpusSettings
from dmsae_ray.corpus.reading import list_units, read_unit
from dmsae_ray.errors import DataError, TransientError
from dmsae_ray.files import retry as outages
from dmsae_ray.files.retry import call_with_retries, iterate_with_retries
from tests.hub_server import Hub, hub_server, use

TEXTS = [f"{i} " + "x" * 800_000 for i in range(40)]  # a file is read in several requests
DATASET = "someone/data"
STREAMED = CorpusSettings(source="huggingface", path=DATASET, revision="v1")
FILES = CorpusSettings(source="jsonl", path=f"hf://datasets/{DATASET}")
DELAYS = (0.25, 0.375, 0.625)  # nobody else's; none of them passes


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in TEXTS]
    with hub_server() as hub:
        files = {"a.jsonl": b"".join(lines[:30]), "b.jsonl": b"".join(lines[30:])}
        held = hub.commit(DATASET, files, kind="datasets")
        hub.repos["datasets", DATASET].refs["v1"] = held
        yield hub


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeps of this process, which take no time."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(outages, "RETRY_DELAYS", DELAYS)
    return slept


@pytest.fixture
def hub(server: Hub, waits: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    use(server, monkeypatch, str(tmp_path))
    server.fault = lambda method, path: None
    return server


def ours(waits: list[float]) -> list[float]:
    return [seconds for seconds in waits if seconds in DELAYS]


def pytest_ids(corpus: object) -> str:
    return corpus.source if isinstance(corpus, CorpusSettings) else str(corpus)


@pytest.mark.parametrize("status", [0, 429, 503])
@pytest.mark.parametrize("corpus", [STREAMED, FILES], ids=pytest_ids)
def test_units_are_waited_for(
    corpus: CorpusSettings, status: int, hub: Hub, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    hub.fault = lambda method, path: status if len(ours(waits)) < 3 else None
    with caplog.at_level(logging.WARNING, "dmsae_ray"):
        assert len(list_units(corpus)) == 2
    assert ours(waits) == list(DELAYS)
    said = [record.message for record in caplog.records if record.name == outages.__name__]
    assert len(said) == 3
    assert all(line.startswith(f"corpus.path '{corpus.path}': the Hub does not answer (") for line in said)


@pytest.mark.parametrize(("status", "reason"), [(0, "Server disconnected"), (429, "429"), (503, "503")])
@pytest.mark.parametrize("corpus", [STREAMED, FILES], ids=pytest_ids)
def test_hub_that_stays_down_is_one_line(corpus: CorpusSettings, status: int, reason: str, hub: Hub) -> None:
    hub.fault = lambda method, path: status
    with pytest.raises(TransientError) as caught:
        list_units(corpus)
    message = str(caught.value)
    assert message.startswith(f"corpus.path '{corpus.path}': the Hub did not answer after 4 tries in ")
    assert reason in message and "\n" not in message and "data file" not in message


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_said_at_once(status: int, hub: Hub, waits: list[float]) -> None:
    hub.fault = lambda method, path: status
    with pytest.raises(DataError, match=rf"^corpus.path '{DATASET}' cannot be opened: [^\n]*{status}[^\n]*$"):
        list_units(STREAMED)
    assert ours(waits) == []


def test_an_unknown_split_is_said_at_once(hub: Hub, waits: list[float]) -> None:
    with pytest.raises(DataError, match=rf"^corpus.path '{DATASET}' cannot be opened: Bad split: nope[^\n]*$"):
        list_units(STREAMED.model_copy(update={"split": "nope"}))
    assert ours(waits) == []


@pytest.mark.parametrize("status", [0, 503])
@pytest.mark.parametrize("corpus", [STREAMED, FILES], ids=pytest_ids)
def test_reading_goes_on_where_it_was(corpus: CorpusSettings, status: int, hub: Hub, waits: list[float]) -> None:
    units = list_units(corpus)
    hub.requests.clear()

    def down(method: str, path: str) -> int | None:
        """From the third request for the first file on, for everything, until it was waited for three times."""
        read = sum(request.endswith("/a.jsonl") for request in hub.requests)
        return status if read >= 3 and len(ours(waits)) < 3 else None

    hub.fault = down
    assert [text for unit in units for text in read_unit(corpus, unit)] == TEXTS
    assert ours(waits) == list(DELAYS)


@pytest.mark.parametrize("corpus", [STREAMED, FILES], ids=pytest_ids)
def test_hub_that_goes_down_and_stays_down(corpus: CorpusSettings, hub: Hub) -> None:
    unit = list_units(corpus)[0]
    hub.requests.clear()
    hub.fault = lambda method, path: 503 if sum("a.jsonl" in r for r in hub.requests) >= 3 else None
    with pytest.raises(
        TransientError, match=r"^corpus[^\n]*, behind document \d+: the Hub did not answer after 4 tries"
    ):
        list(read_unit(corpus, unit))


def test_offline_does_not_wait(hub: Hub, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants

    for variables in ((huggingface_hub.constants,), (huggingface_hub.constants, datasets.config)):
        for module in variables:
            monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
        for corpus in (STREAMED, FILES):
            with pytest.raises(DataError, match=rf"^corpus.path '{corpus.path}' cannot be [^\n]*OFFLINE is set[^\n]*$"):
                list_units(corpus)
    assert waits == []


def test_items_are_not_given_twice(waits: list[float]) -> None:
    calls = 0

    def flaky() -> Iterator[int]:
        nonlocal calls
        calls += 1
        for i in range(40):
            if i == 10 * calls and calls < 3:
                raise ConnectionError("lost")
            yield i

    assert list(iterate_with_retries(flaky, "corpus.path 'x'", "the Hub")) == list(range(40))
    assert waits == [DELAYS[0], DELAYS[0]]  # something came between the two


def test_the_line_says_where_it_was(waits: list[float]) -> None:
    def dead() -> Iterator[str]:
        yield "one"
        raise ConnectionError("no route\nto host")

    line = r"^corpus.path 'x', behind document 1: s3 did not answer after 4 tries in \d+ s: no route to host$"
    with pytest.raises(TransientError, match=line):
        list(iterate_with_retries(dead, "corpus.path 'x'", "s3"))


def test_a_full_disk_is_not_called_an_outage(waits: list[float], caplog: pytest.LogCaptureFixture) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TransientError, match=r"^corpus.path 'x': the disk was full after 4 tries in \d+ s: [^\n]*$"):
        call_with_retries(full, "corpus.path 'x'", "the Hub")
    assert "the disk is full" in caplog.text and "answer" not in caplog.text


def test_other_errors_come_out_as_they_are(waits: list[float]) -> None:
    def broken() -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        call_with_retries(broken, "corpus.path 'x'", "the Hub")
    assert waits == []
