"""What some tests need and a machine may lack. CI sets DMSAE_TEST_EVERYTHING, and there nothing may be lacking."""

import importlib
import os
from types import ModuleType
from typing import NoReturn

import pytest


def optional(module: str) -> ModuleType:
    """Return the module; without it the test, or the file that asks at its top, is left out."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        left_out(f"needs {module}: {error}")


def left_out(reason: str) -> NoReturn:
    """Skip the test for want of something; in CI it fails."""
    if os.environ.get("DMSAE_TEST_EVERYTHING"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)
