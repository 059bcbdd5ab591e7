"""The test picture: colour bars, a bouncing ball, the time in letters and as a clock bar.

The bar takes the top 16 rows: 40 cells of width / 40, luma 235 for 1 and 16 for 0; the first eight
are 10101010, then the low 32 bits of the wall clock in milliseconds, highest bit first. A player's
latency is read from it (``edge`` tests and benchmarks do).
"""

from datetime import UTC, datetime
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from origin.videogen.font import HEIGHT, WIDTH, Font

BAR_ROWS = 16
BAR_CELLS = 40
WHITE, BLACK = 235, 16
_SYNC = [1, 0, 1, 0, 1, 0, 1, 0]
_TEXT_LENGTH = 47
# Luma and chroma of 75 % bars, ITU-R BT.709: grey, yellow, cyan, green, magenta, red, blue.
_BARS = (
    (180, 128, 128),
    (168, 44, 136),
    (145, 147, 44),
    (133, 63, 52),
    (63, 193, 204),
    (51, 109, 212),
    (28, 212, 120),
)
_BALL_COLOR = (225, 100, 140)
_LAPS_X = Fraction(1, 5)
_LAPS_Y = Fraction(1, 3)
"""Of the ball, there and back, a second."""

Plane = NDArray[np.uint8]


def clock_bar(width: int, wall_ms: int) -> Plane:
    """Return one row of the clock bar."""
    word = wall_ms & 0xFFFFFFFF
    bits = _SYNC + [word >> (31 - index) & 1 for index in range(32)]
    cells = np.array([WHITE if bit else BLACK for bit in bits], np.uint8)
    return cells[np.arange(width) * BAR_CELLS // width]


def read_clock_bar(luma: Plane) -> int | None:
    """Return the milliseconds in the clock bar of a decoded picture; None if there is no bar."""
    width = luma.shape[1]
    centres = (2 * np.arange(BAR_CELLS) + 1) * width // (2 * BAR_CELLS)
    bits = [int(cell > 125) for cell in luma[BAR_ROWS // 2, centres]]
    if bits[:8] != _SYNC:
        return None
    return int("".join(map(str, bits[8:])), 2)


class Painter:
    """Paints one rendition, touching only what has moved since the picture before."""

    def __init__(self, width: int, height: int, fps: Fraction) -> None:
        self._width, self._height, self._fps = width, height, fps
        self._background = _background(width, height)
        self._canvas = [plane.copy() for plane in self._background]
        self._scale = max(1, width // (WIDTH * (_TEXT_LENGTH + 2)))
        self._font = Font(self._scale, WHITE, BLACK)
        self._radius = max(8, height // 12) & ~1
        self._disc = _disc(self._radius)
        self._small_disc = _disc(self._radius // 2)
        self._ball: tuple[int, int] = (0, BAR_ROWS)

    def paint(self, number: int, wall_us: int) -> list[Plane]:
        """Paint frame ``number`` at this wall clock; return Y, U and V, valid until the next."""
        luma = self._canvas[0]
        luma[:BAR_ROWS] = clock_bar(self._width, wall_us // 1000)
        self._move_ball(number)
        moment = datetime.fromtimestamp(wall_us // 1_000_000, UTC)
        millis = wall_us // 1000 % 1000
        text = f"HEADWATER {moment:%Y-%m-%d %H:%M:%S}.{millis:03d} FRAME {number:06d}"
        line = self._font.render(text)[:, : self._width]
        left = (self._width - line.shape[1]) // 2
        top = self._height - 2 * HEIGHT * self._scale
        luma[top : top + line.shape[0], left : left + line.shape[1]] = line
        return self._canvas

    def _move_ball(self, number: int) -> None:
        size = 2 * self._radius
        self._blit(self._ball, None)
        seconds = number / self._fps
        x = _bounce(seconds * _LAPS_X, self._width - size)
        room = self._height - BAR_ROWS - 3 * HEIGHT * self._scale - size
        y = BAR_ROWS + _bounce(seconds * _LAPS_Y, max(0, room))
        self._ball = (x & ~1, y & ~1)
        self._blit(self._ball, _BALL_COLOR)

    def _blit(self, place: tuple[int, int], color: tuple[int, int, int] | None) -> None:
        """Draw the ball, or with no colour the background, at a place."""
        x, y = place
        for index, plane in enumerate(self._canvas):
            shift = min(index, 1)
            size = 2 * self._radius >> shift
            rows = slice(y >> shift, (y >> shift) + size)
            columns = slice(x >> shift, (x >> shift) + size)
            if color is None:
                plane[rows, columns] = self._background[index][rows, columns]
                continue
            spot = plane[rows, columns]
            disc = self._small_disc if shift else self._disc
            spot[disc[: spot.shape[0], : spot.shape[1]]] = color[index]


def _bounce(laps: Fraction, room: int) -> int:
    phase = laps % 1 * 2
    return int((phase if phase <= 1 else 2 - phase) * room)


def _disc(radius: int) -> NDArray[np.bool_]:
    offsets = np.arange(2 * radius) - radius + 0.5
    inside: NDArray[np.bool_] = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2
    return inside


def _background(width: int, height: int) -> list[Plane]:
    """Return bars above, a grey ramp below, in three planes of 4:2:0."""
    planes = []
    for index in range(3):
        columns, rows = (width, height) if index == 0 else (width // 2, height // 2)
        bars = np.array([bar[index] for bar in _BARS], np.uint8)
        plane = np.empty((rows, columns), np.uint8)
        plane[:] = bars[np.arange(columns) * len(_BARS) // columns]
        ramp = BLACK + np.arange(columns) * (WHITE - BLACK) // columns if index == 0 else 128
        plane[rows * 3 // 4 :] = ramp
        plane[: BAR_ROWS >> min(index, 1)] = BLACK if index == 0 else 128
        planes.append(plane)
    return planes
