"""A bitmap font of five by seven dots: capitals, digits and what a clock needs."""

import numpy as np
from numpy.typing import NDArray

WIDTH = 6
"""Dots from one character to the next."""

HEIGHT = 9
"""Dots of a line, with one above and below."""

# Seven rows a character, top first; five bits a row, leftmost highest.
_GLYPHS = {
    " ": (0, 0, 0, 0, 0, 0, 0),
    "-": (0, 0, 0, 31, 0, 0, 0),
    ".": (0, 0, 0, 0, 0, 12, 12),
    ":": (0, 12, 12, 0, 12, 12, 0),
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    "A": (14, 17, 17, 31, 17, 17, 17),
    "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "D": (28, 18, 17, 17, 17, 18, 28),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
    "G": (14, 17, 16, 23, 17, 17, 15),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "J": (7, 2, 2, 2, 2, 18, 12),
    "K": (17, 18, 20, 24, 20, 18, 17),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 17, 25, 21, 19, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "Q": (14, 17, 17, 17, 21, 18, 13),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14),
    "V": (17, 17, 17, 17, 17, 10, 4),
    "W": (17, 17, 17, 21, 21, 21, 10),
    "X": (17, 17, 10, 4, 10, 17, 17),
    "Y": (17, 17, 17, 10, 4, 4, 4),
    "Z": (31, 1, 2, 4, 8, 16, 31),
}


class Font:
    """The font at one scale and in one pair of luma values."""

    def __init__(self, scale: int, ink: int, paper: int) -> None:
        self._glyphs = np.zeros((128, HEIGHT * scale, WIDTH * scale), np.uint8)
        for character, rows in _GLYPHS.items():
            dots = np.zeros((HEIGHT, WIDTH), np.uint8)
            for row, bits in enumerate(rows):
                dots[row + 1, :5] = [bits >> (4 - column) & 1 for column in range(5)]
            large = dots.repeat(scale, axis=0).repeat(scale, axis=1)
            self._glyphs[ord(character)] = large
        self._glyphs = np.where(self._glyphs, ink, paper).astype(np.uint8)

    def render(self, text: str) -> NDArray[np.uint8]:
        """Return a line of text as luma; characters without a glyph become blanks."""
        codes = np.frombuffer(text.upper().encode("ascii", "replace"), np.uint8)
        glyphs = self._glyphs[codes & 127]
        line: NDArray[np.uint8] = glyphs.transpose(1, 0, 2).reshape(glyphs.shape[1], -1)
        return line
