"""Ray Data's manners: ordered, quiet, with one clear error at the driver, and nothing left behind."""

import gc
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.data import DataContext
from ray.exceptions import RayError

from dmsae_ray.errors import DataError, DmsaeError, one_line

# Ray Data adds it to the text of an exception or, as one more, to its arguments; str() shows that in one of these ways.
_ADVICE = re.compile(
    r": 'Failed to apply UDF.*?be transient\.'|(?:\\n|\s)*Failed to apply UDF.*?(?:be transient\.|\Z)", re.DOTALL
)


@contextmanager
def quiet_context(*, preserve_order: bool, **settings: Any) -> Iterator[DataContext]:
    """Settings of Ray Data for the datasets made and run within; the caller's own are put back afterwards.

    Progress bars are off and Ray Data's log goes to its file only, unless the logger `dmsae_ray` is at DEBUG.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # copying touches Ray's own deprecated fields
        context = DataContext.get_current().copy()
    verbose = logging.getLogger("dmsae_ray").getEffectiveLevel() <= logging.DEBUG
    context.execution_options.preserve_order = preserve_order
    context.enable_progress_bars = verbose
    context.enable_operator_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.raise_original_map_exception = True  # UserCodeException would lose it on its way to the driver
    for name, value in settings.items():
        if not hasattr(context, name):
            raise AttributeError(f"this version of Ray Data has no setting {name}")
        setattr(context, name, value)
    consoles = [] if verbose else [h for h in logging.getLogger("ray.data").handlers if h.name == "console"]
    levels = [handler.level for handler in consoles]
    try:
        with DataContext.current(context):
            for handler in consoles:
                handler.setLevel(logging.CRITICAL)
            yield context
    finally:
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)


def free_actors() -> None:
    """End the pools of datasets that nobody refers to any more.

    Ray ends an actor when its last handle goes, and in Ray Data's executor handles are in cycles that Python collects
    when it likes: an actor that was about to start when a dataset ended would hold its GPU until then.
    """
    gc.collect()


@contextmanager
def first_error(what: str) -> Iterator[None]:
    """Turn what went wrong in a task or an actor into one line at the driver.

    Raises:
        DmsaeError: as it was raised in the task.
        DataError: any other exception, with its type and message.
    """
    try:
        yield
    except Exception as error:
        cause = _cause(error)
        text = _ADVICE.sub("", str(cause))
        if isinstance(cause, DmsaeError):
            raise type(cause)(text) from None
        raise DataError(f"{what} failed: {type(cause).__name__}: {one_line(text)}") from error


def _cause(error: BaseException) -> BaseException:
    """The first exception of ours that Ray wrapped, else the innermost one.

    Ray's wrapper of a task's error is an instance of the error's type as well, with a traceback as its text.
    """
    for _ in range(16):
        if isinstance(error, DmsaeError) and not isinstance(error, RayError):
            break
        inner = getattr(error, "cause", None)
        if not isinstance(inner, BaseException):
            inner = error.__cause__
        if inner is None or inner is error:
            break
        error = inner
    return error
