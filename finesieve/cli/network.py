"""Whether there is a way to the model hub at all, asked once and quickly."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ECONNREFUSED)
_TRIES, _PAUSE, _PATIENCE = 2, 1.0, 10.0  # of how many tries; seconds between them, and for each


@contextmanager
def hub_if_there(*settings: Any) -> Iterator[None]:
    """Has the hub's library look into its cache alone, inside, where there is no network; else it
    would try again for a minute.

    Args:
        settings: further modules that keep `HF_HUB_OFFLINE` for themselves, as `datasets` does.
    """
    from huggingface_hub import constants

    if not no_network():
        yield
        return
    places = (constants, *settings)
    before = [one.HF_HUB_OFFLINE for one in places]
    for one in places:  # the variable of the environment was read when they were loaded
        one.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for one, value in zip(places, before, strict=True):
            one.HF_HUB_OFFLINE = value


@cache
def no_network() -> bool:
    """Return whether the operating system says that the hub cannot be reached: its name is not
    known, or nothing leads there.

    The request goes the way of the hub's own library, through proxies and to mirrors. One that is
    answered, with whatever status, or that takes long, says that there is a network; so does one
    that fails in another way, which that library can tell of better.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:  # it does not ask then
        return False
    for number in range(_TRIES):
        if number:
            time.sleep(_PAUSE)
        try:
            get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
            return False
        except Exception as error:  # of the library that it uses: requests, httpx and others
            if not _says_no_way(error):
                return False
    return True


def _says_no_way(error: BaseException) -> bool:
    """Returns whether an error of the network stands behind this one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return True
        if isinstance(cause, OSError) and cause.errno in _NO_WAY:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
