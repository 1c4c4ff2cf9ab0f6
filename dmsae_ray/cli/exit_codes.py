"""Exit codes of the command line."""

EXIT_FAILED = 1
"""A trial failed."""
EXIT_USAGE = 2
"""An error that the user can fix."""
EXIT_INTERRUPTED = 130
"""Stopped by Ctrl-C."""
