"""How this program uses Ray Data: in order, quietly, with one clear error at the driver, and nothing left behind."""

import gc
import logging
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.exceptions import RayError

from dmsae_ray.errors import DataError, DmsaeError, TransientError, one_line
from dmsae_ray.files import passes

# Ray Data adds this advice to the text of an exception or to its arguments; str() shows it in one of these forms.
_ADVICE = re.compile(
    r": 'Failed to apply UDF.*?be transient\.'|(?:\\n|\s)*Failed to apply UDF.*?(?:be transient\.|\Z)", re.DOTALL
)

_END_SECONDS = 5.0
_running: WeakSet[StreamingExecutor] = WeakSet()
_ending: WeakSet[StreamingExecutor] = WeakSet()


class HarvestInterrupted(DataError):
    """A person or the controller has ended the harvest."""


class _CanBeEnded(ExecutionCallback):
    """Ray Data calls it at each step of a dataset's execution, several times a second; an error here ends it."""

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        _running.add(executor)

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        if executor in _ending:
            raise HarvestInterrupted("it was interrupted")


def end_datasets() -> None:
    """End every dataset that runs in this process within `quiet_context`; wait some seconds until they have ended.

    Call it before the end of a Ray session: Ray's native code ends the whole process, without a word, where the thread
    of a dataset asks for its tasks after that. Whoever reads the rows of the dataset gets `HarvestInterrupted`.
    """
    running = [executor for executor in _running if executor.is_alive()]
    _ending.update(running)
    until = time.monotonic() + _END_SECONDS
    for executor in running:
        executor.join(max(0.0, until - time.monotonic()))


@contextmanager
def quiet_context(*, preserve_order: bool, **settings: Any) -> Iterator[DataContext]:
    """Set Ray Data's settings for the datasets made and run within; restore the caller's settings afterwards.

    Progress bars are off and Ray Data's log goes only to its file, unless the logger `dmsae_ray` is at DEBUG.

    Args:
        preserve_order: whether a dataset yields its rows in order.
        **settings: further attributes of Ray's `DataContext`.

    Raises:
        AttributeError: this version of Ray Data has no such setting.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # copying touches Ray's own deprecated fields
        context = DataContext.get_current().copy()
    verbose = logging.getLogger("dmsae_ray").getEffectiveLevel() <= logging.DEBUG
    context.execution_options.preserve_order = preserve_order
    context.enable_progress_bars = verbose
    context.enable_operator_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.raise_original_map_exception = True  # a UserCodeException loses the original on its way to the driver
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, _CanBeEnded]
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
    """End the actor pools of datasets that nobody refers to any more.

    Ray ends an actor when its last handle is deleted. In Ray Data's executor the handles are in reference cycles, which
    Python collects at some later time: until then, an actor that was about to start when a dataset ended would hold its
    GPU.
    """
    gc.collect()


@contextmanager
def first_error(what: str) -> Iterator[None]:
    """Turn an error of a task or an actor into one line at the driver.

    Args:
        what: name of the work, for the message.

    Raises:
        DmsaeError: an error of this program, with the type that it had in the task.
        TransientError: a process, a node or an object was lost, or something did not answer.
        DataError: any other exception, with its type and message.
    """
    try:
        yield
    except Exception as error:
        cause = _cause(error)
        text = _ADVICE.sub("", str(cause))
        if isinstance(cause, DmsaeError):
            raise type(cause)(text) from None
        kind = TransientError if passes(error) else DataError
        raise kind(f"{what} failed: {type(cause).__name__}: {one_line(text)}") from error


def _cause(error: BaseException) -> BaseException:
    """Return the first exception of this program that Ray wrapped, else the innermost one.

    Ray's wrapper of a task's error is also an instance of the error's type, with a traceback as its text.
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
