"""Inline SVG without a library: a canvas, and round numbers for its axes.

Shapes carry classes, not colours: the page's style sheet has one set for light and one for dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from edgehybrid.printable import plain
from edgehybrid.reporter import wording


@dataclass
class Canvas:
    """An SVG image under construction; all lengths in px of its own coordinate system."""

    width: int
    height: int
    label: str
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str) -> None:
        """A straight line."""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{look}"/>')

    def rect(self, x: float, y: float, width: float, height: float, look: str, title: str = "") -> None:
        """A filled rectangle; browsers show `title` under the pointer."""
        tip = f"<title>{escape(plain(title))}</title>" if title else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
            f'class="{look}">{tip}</rect>'
        )

    def path(self, data: str, look: str) -> None:
        """A path in SVG's own notation."""
        self.parts.append(f'<path d="{data}" class="{look}"/>')

    def text(self, x: float, y: float, content: str, look: str = "label", anchor: str = "start") -> None:
        """One line of text; `y` is its base line."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{look}">{escape(plain(content))}</text>'
        )

    def mark(self, x: float, y: float, precision: str) -> None:
        """A point whose shape tells the precision as well as its colour does."""
        shapes = {
            "fp32": f"M{x - 5.5:.1f} {y - 5.5:.1f}h11v11h-11z",
            "fp16": f"M{x:.1f} {y - 7:.1f}l7 12.5h-14z",
            "int8": f"M{x - 6:.1f} {y:.1f}a6 6 0 1 0 12 0a6 6 0 1 0 -12 0z",
            "mixed": f"M{x:.1f} {y - 7.5:.1f}l7.5 7.5l-7.5 7.5l-7.5 -7.5z",
        }
        self.path(shapes[precision], f"mark fill-{precision}")

    def markup(self) -> Markup:
        """The finished element."""
        head = (
            f'<svg viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}" '
            f'role="img" aria-label="{escape(plain(self.label))}">'
        )
        return Markup(head + "".join(self.parts) + "</svg>")


def ticks_of(low: float, high: float, count: int) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that enclose [low, high]."""
    smallest = max(1e-9 * abs(high), 1e-9)
    span = high - low if high - low > smallest else max(abs(high), smallest)
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(tick: float, ticks: Sequence[float], sign: bool) -> str:
    """A tick with as many decimals as the distance between ticks needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    text = wording.signed(tick, digits) if sign else wording.fixed(tick, digits)
    return text.replace("-", "\u2212")


def drawable(*values: float) -> bool:
    """Whether values can stand on an axis: finite, and not so large that differences vanish."""
    return all(math.isfinite(value) and abs(value) < 1e12 for value in values)
