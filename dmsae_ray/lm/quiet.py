"""Turn off transformers' progress bars and messages for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

transformers_logging: Any = logging


@contextmanager
def quiet() -> Iterator[None]:
    """Context without transformers' progress bars and its table of tensors that were not read."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
