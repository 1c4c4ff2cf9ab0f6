"""What ends a run of Tune is said in one line where it is an error of ours."""

import pytest
from ray.tune.error import TuneError

from dmsae_ray.errors import DataError
from dmsae_ray.sweep.tuning import own_errors


def fail(first: Exception) -> None:
    """Raise an error as Tune raises what a callback raised."""
    try:
        try:
            raise first
        except Exception as error:
            raise TuneError("Traceback (most recent call last): ...") from error
    except TuneError:
        raise TuneError("The Tune run failed")  # noqa: B904 - as Tune does


def test_an_error_of_ours_within_tunes_is_raised_itself() -> None:
    known = DataError("one line")
    with pytest.raises(DataError) as caught, own_errors():
        fail(known)
    assert caught.value is known


def test_any_other_error_is_as_it_was() -> None:
    with pytest.raises(TuneError), own_errors():
        fail(ValueError("a mistake of ours"))
