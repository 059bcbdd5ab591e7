"""Whichever library sums up: pages and the bus of all nodes have the same sums."""

import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.track import checksum


@given(st.binary(max_size=4096))
def test_sums_are_those_of_zlib(data: bytes) -> None:
    assert checksum.crc32(data) == zlib.crc32(data)
    assert checksum.crc32(memoryview(data)) == zlib.crc32(data)


def test_without_zlib_ng_it_is_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zlib_ng", None)
    assert checksum.quickest() is zlib.crc32
