"""Exit codes of the command line."""

EXIT_FAILED = 1
"""A trial failed."""
EXIT_USAGE = 2
"""Something that the user can mend."""
EXIT_INTERRUPTED = 130
"""Ctrl-C."""
