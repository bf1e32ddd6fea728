"""Two canvases with the same words: SVG text, and a bitmap written as PNG with nothing but zlib.

Coordinates are points, y downwards. The bitmap has two pixels a point, and a font of five by seven dots.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np

Points = Sequence[tuple[float, float]]

# Five columns a character from the space on, the lowest bit on top.
_FONT = bytes.fromhex(
    "000000000000005f00000007000700147f147f14242a7f2a12231308646236495620500008070300001c2241000041221c002a1c7f1c2a"
    "08083e080800807030000808080808000060600020100804023e5149453e00427f400072494949462141494d331814127f102745454539"
    "3c4a49493141211109073649494936464949291e0000140000004034000000081422411414141414004122140802015909063e415d594e"
    "7c1211127c7f494949363e414141227f4141413e7f494949417f090909013e414151737f0808087f00417f41002040413f017f08142241"
    "7f404040407f021c027f7f0408107f3e4141413e7f090909063e4151215e7f09192946264949493203017f01033f4040403f1f2040201f"
    "3f4038403f631408146303047804036159494d43007f4141410204081020004141417f0402010204404040404000030708002054547840"
    "7f284444383844444428384444287f385454541800087e090218a4a49c787f0804047800447d40002040403d007f1028440000417f4000"
    "7c047804787c080404783844444438fc1824241818242418fc7c08040408485454542404043f44243c4040207c1c2040201c3c4030403c"
    "44281028444c9090907c4464544c440008364100000077000000413608000201020402"
)


class Svg:
    """Shapes as SVG elements."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []

    def rect(self, x: float, y: float, w: float, h: float, fill: str, opacity: float = 1, title: str = "") -> None:
        """A filled rectangle; its title shows under the pointer."""
        alpha = f' fill-opacity="{opacity:g}"' if opacity != 1 else ""
        inner = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}"{alpha}>{inner}</rect>')

    def columns(self, x: float, tops: Sequence[float], bottoms: Sequence[float], fill: str) -> None:
        """An area one point wide a column, from its tops to its bottoms."""
        if all(b - t < 0.05 for t, b in zip(tops, bottoms, strict=True)):
            return
        there = [f"{x + i:.0f},{t:.1f} {x + i + 1:.0f},{t:.1f}" for i, t in enumerate(tops)]
        back = [f"{x + i + 1:.0f},{b:.1f} {x + i:.0f},{b:.1f}" for i, b in reversed(list(enumerate(bottoms)))]
        self.parts.append(f'<polygon points="{" ".join(there + back)}" fill="{fill}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, dashed: bool = False) -> None:
        """A thin line."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{dash}/>')

    def text(self, x: float, y: float, text: str, fill: str, size: float = 11, anchor: str = "start") -> None:
        """Words on a base line."""
        side = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size:g}"{side}>{escape(text)}</text>')

    def long(self, text: str, size: float = 11) -> float:
        """How wide words are; a guess, as the font is the reader's."""
        return 0.6 * size * len(text)

    def finish(self) -> bytes:
        """The picture's file."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'font-family="system-ui, sans-serif">{"".join(self.parts)}</svg>'
        ).encode()


class Png:
    """Shapes as dots."""

    SCALE = 2

    def __init__(self, width: int, height: int) -> None:
        self.dots = np.full((height * self.SCALE, width * self.SCALE, 3), 255, np.float32)

    def _fill(self, x1: float, y1: float, x2: float, y2: float, color: str, opacity: float = 1) -> None:
        s = self.SCALE
        area = self.dots[max(round(y1 * s), 0) : round(y2 * s), max(round(x1 * s), 0) : round(x2 * s)]
        area += opacity * (_rgb(color) - area)

    def rect(self, x: float, y: float, w: float, h: float, fill: str, opacity: float = 1, title: str = "") -> None:
        """A filled rectangle."""
        self._fill(x, y, x + w, y + h, fill, opacity)

    def columns(self, x: float, tops: Sequence[float], bottoms: Sequence[float], fill: str) -> None:
        """An area one point wide a column, from its tops to its bottoms."""
        for i, (top, bottom) in enumerate(zip(tops, bottoms, strict=True)):
            if bottom > top:
                self._fill(x + i, top, x + i + 1, bottom, fill)

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, dashed: bool = False) -> None:
        """A thin line, level or upright."""
        half = 0.5 / self.SCALE
        if not dashed:
            self._fill(x1 - half, y1 - half, x2 + half, y2 + half, stroke)
            return
        length, at = max(x2 - x1, y2 - y1), 0.0
        while at < length:
            end = min(at + 5, length)
            if x2 > x1:
                self._fill(x1 + at, y1 - half, x1 + end, y1 + half, stroke)
            else:
                self._fill(x1 - half, y1 + at, x1 + half, y1 + end, stroke)
            at += 9

    def text(self, x: float, y: float, text: str, fill: str, size: float = 11, anchor: str = "start") -> None:
        """Words on a base line; a dot of the font is one or two pixels wide."""
        text = _plain(text)
        dot = 2 if size >= 9 else 1
        left = x * self.SCALE - {"start": 0, "middle": 0.5, "end": 1}[anchor] * 6 * dot * len(text)
        top, color = round(y * self.SCALE) - 7 * dot, _rgb(fill)
        for n, character in enumerate(text):
            at = 5 * (ord(character) - 32)
            for column, bits in enumerate(_FONT[at : at + 5]):
                first = round(left) + (6 * n + column) * dot
                for row in range(8):
                    if bits >> row & 1 and first >= 0 and top + row * dot >= 0:
                        self.dots[top + row * dot : top + (row + 1) * dot, first : first + dot] = color

    def long(self, text: str, size: float = 11) -> float:
        """How wide words are."""
        return 6 * len(_plain(text)) * (2 if size >= 9 else 1) / self.SCALE

    def finish(self) -> bytes:
        """The picture's file."""
        dots = np.rint(self.dots).astype(np.uint8)
        rows = np.concatenate([np.zeros((len(dots), 1), np.uint8), dots.reshape(len(dots), -1)], axis=1)

        def chunk(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        head = struct.pack(">IIBBBBB", dots.shape[1], dots.shape[0], 8, 2, 0, 0, 0)
        data = zlib.compress(rows.tobytes(), 9)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _plain(text: str) -> str:
    """Text in the characters that the font has."""
    for own, there in (("–", "-"), ("−", "-"), ("µ", "u"), ("…", ".."), ("√", "sqrt ")):
        text = text.replace(own, there)
    return text.encode("ascii", "replace").decode()


def _rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32)


Canvas = Svg | Png
