"""What a failing task looks like at the driver."""

import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.harvest.ray_data import HarvestInterrupted, end_datasets, first_error, quiet_context


def failing(error: Exception) -> Callable[[Any], Any]:
    def fail(batch: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
            "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed",
        ),
        (FileNotFoundError(2, "No such file"), "FileNotFoundError: [Errno 2] No such file"),
        (KeyError("text"), "KeyError: 'text'"),
        (zlib.error("Error -3"), "error: Error -3"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_whole_text_of_an_error_and_nothing_else(error: Exception, line: str, ray_cluster: Any) -> None:
    with pytest.raises(DataError) as caught, quiet_context(preserve_order=True), first_error("reading"):
        ray_cluster.data.range(1).map_batches(failing(error)).materialize()
    assert str(caught.value) == f"reading failed: {line}"


def test_an_error_of_ours_stays_as_it_is(ray_cluster: Any) -> None:
    with pytest.raises(ConfigError) as caught, quiet_context(preserve_order=True), first_error("reading"):
        ray_cluster.data.range(1).map_batches(failing(ConfigError("lm.layer is 99"))).materialize()
    assert str(caught.value) == "lm.layer is 99"


def test_a_dataset_whose_tasks_hang_is_ended_from_outside_and_the_next_one_runs(ray_cluster: Any) -> None:
    def hang(batch: Any) -> Any:
        time.sleep(600)
        return batch

    errors: list[BaseException] = []

    def read() -> None:
        try:
            with quiet_context(preserve_order=True), first_error("reading"):
                list(ray_cluster.data.range(4).map_batches(hang).iter_rows())
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    began = time.monotonic()
    while reader.is_alive() and time.monotonic() - began < 30:
        end_datasets()  # it may not run yet
        reader.join(0.2)
    assert [type(error) for error in errors] == [HarvestInterrupted]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]
    with quiet_context(preserve_order=True):
        assert [row["id"] for row in ray_cluster.data.range(3).iter_rows()] == [0, 1, 2]
