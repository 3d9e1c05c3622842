"""Reads the changes that a time zone's file lists (RFC 9636), which zoneinfo doesn't tell."""

from __future__ import annotations

import struct
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from zoneinfo import TZPATH

_EPOCH = datetime(1970, 1, 1)


def transitions(name: str) -> list[datetime]:
    """The instants in UTC, without tzinfo, at which anything about the zone changes, its name included."""
    data = _file(name)
    first = _counts(data, 0)
    second = _header_end(first, 4)
    times = _counts(data, second)[3]
    start = second + 44
    found = struct.unpack(f">{times}q", data[start : start + 8 * times])
    return [_EPOCH + timedelta(seconds=at) for at in found if at >= 0]


def _counts(data: bytes, offset: int) -> tuple[int, ...]:
    """isutcnt, isstdcnt, leapcnt, timecnt, typecnt, charcnt."""
    assert data[offset : offset + 4] == b"TZif"
    return struct.unpack(">6l", data[offset + 20 : offset + 44])


def _header_end(counts: tuple[int, ...], size: int) -> int:
    isut, isstd, leap, times, types, chars = counts
    return 44 + times * size + times + types * 6 + chars + leap * (size + 4) + isstd + isut


def _file(name: str) -> bytes:
    for root in TZPATH:
        path = Path(root, name)
        if path.is_file():
            return path.read_bytes()
    return resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
