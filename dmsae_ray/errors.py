"""Errors that a user can fix. Each message is one line: the field, its value, and what is allowed."""


class DmsaeError(Exception):
    """Base of every error that the command line prints as one line, with exit code 2."""


class ConfigError(DmsaeError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(DmsaeError):
    """A file or a stream of data that is missing, truncated, corrupt or of the wrong kind."""


class TransientError(DmsaeError):
    """Something was lost or did not answer in time, and another attempt may succeed; nothing is wrong with the data."""


def one_line(error: object, most: int = 300) -> str:
    """Return the message of an exception in one line.

    Args:
        error: The exception, or a text.
        most: Characters at most; a longer message is cut and ends in '...'.

    Returns:
        The message. For an error of the operating system it is the reason alone; for an error without a message, its
        type.
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = " ".join(str(text).split())
    return text if len(text) <= most else text[: most - 3] + "..."
