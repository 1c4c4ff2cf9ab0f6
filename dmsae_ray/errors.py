"""Errors a user can mend. Each message is one line: the field, its value, and what is allowed."""

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
"""Exit codes of the command line: a trial failed; something that the user can mend; Ctrl-C."""


class DmsaeError(Exception):
    """Base of every error that the command line prints as one line and exits with code 2."""


class ConfigError(DmsaeError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(DmsaeError):
    """A file or a stream of data that is missing, truncated, corrupt or of the wrong kind."""
