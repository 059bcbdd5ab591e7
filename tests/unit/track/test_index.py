"""Index rows as bytes."""

from typing import Any

import msgpack
import pytest

from common.errors import FormatError
from common.track.index import MAX_ROW, Closed, Course, Opened, Piece, Row, decode_row, encode_row

OPENED = Opened(5, 10_000_000, 1_700_000_000_000_000, 1, True)
PIECES = (
    Piece(1, 250, 50, 0, 900_000, 180_000, 50_000, 50, 10, True),
    Piece(2, 470, 94, 0, 480_000, 96_256, 9_000, 52, 10, True),
)


@pytest.mark.parametrize("row", [OPENED, Closed(OPENED, 2_000_000, PIECES), Closed(OPENED, 0, ())])
def test_a_row_is_read_back(row: Row) -> None:
    assert decode_row(encode_row(row)) == row


def test_the_course_of_a_segment_is_read_back() -> None:
    course = Course(3, True, 12_000_000, 2_000_000, 10_000_000, -40)
    row = decode_row(encode_row(Opened(5, 10_000_000, 17, 1, True, course)))
    assert isinstance(row, Opened)
    assert row.course == course


def test_a_piece_is_found_by_its_track() -> None:
    row = Closed(OPENED, 2_000_000, PIECES)
    assert row.piece(2) is PIECES[1]
    assert row.piece(3) is None


def packed(*items: Any) -> bytes:
    data: bytes = msgpack.packb(list(items))
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        bytes(MAX_ROW + 1),
        packed(),
        packed(1, 2, 3, 4),
        packed(1, 2, 3, 4, 5),
        packed("1", 2, 3, 4, True),
        packed(1, 2, 3, 4, True),
        packed(1, 2, 3, 4, True, 6),
        packed(1, 2, 3, 4, True, [1, True, 3, 4, 5]),
        packed(1, 2, 3, 4, True, [1, 2, 3, 4, 5, 6]),
        packed(1, 2, 3, 4, True, 6, [7]),
        packed(1, 2, 3, 4, True, 6, [[1] * 9]),
        packed(1, 2, 3, 4, True, 6, [[1] * 10]),
        packed(1, 2, 3, 4, True, 6, [[True] * 10]),
    ],
)
def test_anything_else_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_row(data)
