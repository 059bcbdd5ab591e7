"""Stream names: ``base`` or ``base+wildcard``, one grammar everywhere."""

import re

from common.errors import FormatError

MAX_NAME = 200
"""Letters of a stream name. A longer one is a FormatError: requests are answered with 400,
publishers are refused."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}(\+[A-Za-z0-9_.=-]{1,100})?")


def check_name(name: str) -> str:
    """Return ``name`` if it names a stream.

    Raises:
        FormatError: If it does not; the text says what a name looks like.
    """
    if _NAME.fullmatch(name) is None or ".." in name:
        raise FormatError(
            "a stream name is lower-case letters, digits, '_', '-' and '.', up to 100 of them, "
            "optionally '+' and a wildcard part"
        )
    return name


def base_name(name: str) -> str:
    """Return the configured stream that ``name`` belongs to: what stands before the ``+``."""
    return name.partition("+")[0]
