"""Date and time: as messages write them (RFC 5322 3.3), and as logs do (RFC 3339)."""

from __future__ import annotations

import functools
import time

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


_FRACTIONS = [f".{milliseconds:03d}Z" for milliseconds in range(1000)]


def date_time(now: float) -> str:
    """RFC 5322 date-time in UTC; whatever the locale."""
    return _date_time(int(now // 1))


@functools.lru_cache(maxsize=4)
def _date_time(second: int) -> str:
    t = time.gmtime(second)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
    )


def rfc3339(when: float) -> str:
    """RFC 3339 in UTC with milliseconds, of Unix seconds."""
    second, milliseconds = divmod(int(when * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{milliseconds:03d}Z"


class Timestamps:
    """RFC 3339 in UTC with milliseconds; the text of a second is made once."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, when: float) -> str:
        """The text of Unix seconds."""
        second, milliseconds = divmod(int(when * 1000), 1000)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return self._text + _FRACTIONS[milliseconds]
