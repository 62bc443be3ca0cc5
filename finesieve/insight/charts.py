"""Small charts as inline SVG: no network, no script, sharp on any screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import median, quantiles

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 14, 14, 52
_TICKS = 6  # at the most
_ROUNDING = 1e-9  # relative: nearer values are one
Points = Sequence[tuple[float, float]]


@dataclass
class Series:
    """One series of a chart.

    Args:
        name: for the legend.
        points: (x, y) each.
        color: of CSS.
        kind: "line" or "dots".
        labels: of dots, one each.
    """

    name: str
    points: Points
    color: str
    kind: str = "line"
    labels: Sequence[str] = field(default_factory=tuple)


def ticks(low: float, high: float) -> list[float]:
    """Returns round numbers from `low` to `high`, six of them at the most."""
    span = high - low or 1.0
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    # Each tick is computed from its number. Adding the step again and again would never end where
    # the step is so small beside the value that the sum is rounded back to it.
    first = math.ceil(low / step - 1e-9)
    every = (round((first + i) * step, 12) for i in range(_TICKS))
    return list(dict.fromkeys(x for x in every if x <= high + 1e-9 * span))


def decades(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 (over less than a decade 1 to 9) times powers of ten, from 10 ** low to 10
    ** high."""
    digits = (1, 2, 5) if high - low > 0.7 else range(1, 10)
    every = (m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in digits)
    return [x for x in every if low <= math.log10(x) <= high]


def number(value: float) -> str:
    """Returns a number as text, without needless digits."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


class Frame:
    """Axes with ticks, from the range of what is to be drawn.

    Args:
        xs, ys: all values that are drawn.
        x_name, y_name: of the axes.
        percent: whether the vertical axis is of shares, shown in per cent.
        zero: whether the axes begin at 0.
        log: whether the vertical axis is logarithmic.
    """

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        x_name: str,
        y_name: str,
        percent: bool = False,
        zero: bool = False,
        log: bool = False,
    ) -> None:
        self._height = math.log10 if log else float
        self.x0, self.x1 = _range(xs, pad=0.0 if zero else 0.06, zero=zero)
        self.y0, self.y1 = _range([self._height(y) for y in ys], pad=0.08, zero=zero)
        if percent:
            self.y0, self.y1 = 0.0, max(1.0, self.y1 if self.y1 > 1.08 else 1.0)
        parts = []
        for t in decades(self.y0, self.y1) if log else ticks(self.y0, self.y1):
            y = self.y(t)
            shown = f"{t:.0%}" if percent else number(t)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
                f'y2="{y:.1f}"/><text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" '
                f'text-anchor="end">{shown}</text>'
            )
        for t in ticks(self.x0, self.x1):
            parts.append(
                f'<text class="tick" x="{self.x(t):.1f}" y="{HEIGHT - BOTTOM + 18}" '
                f'text-anchor="middle">{number(t)}</text>'
            )
        parts.append(
            f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" '
            f'text-anchor="middle">{escape(x_name)}</text>'
        )
        parts.append(
            f'<text class="axis" text-anchor="middle" transform="translate(14,'
            f'{(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">{escape(y_name)}</text>'
        )
        self.parts = parts

    def x(self, value: float) -> float:
        """Returns the place of a value on the horizontal axis."""
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Returns the place of a value on the vertical axis."""
        share = (self._height(value) - self.y0) / (self.y1 - self.y0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def svg(self, title: str) -> str:
        """Returns the drawing as SVG."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
            f"{''.join(self.parts)}</svg>"
        )


def _range(values: Sequence[float], pad: float, zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if zero:
        low = min(low, 0.0)
    span = high - low
    if span <= _ROUNDING * max(abs(low), abs(high)):  # one value, but for rounding
        span = abs(high) or 1.0
    return (low if zero else low - pad * span), high + (pad or 0.02) * span


def legend(series: Sequence[Series]) -> str:
    """Returns the names beside their colors, in HTML."""
    return (
        '<p class="legend">'
        + " ".join(
            f'<span><i style="background:{s.color}"></i>{escape(s.name)}</span>' for s in series
        )
        + "</p>"
    )


def chart(
    title: str,
    series: Sequence[Series],
    x_name: str,
    y_name: str,
    percent: bool = False,
    zero: bool = False,
    shades: Sequence[tuple[float, float, str]] = (),
    note: str = "",
) -> str:
    """Return a figure: lines, or dots with their series' names beside them, over two axes.

    Dots far away from all others are drawn at the edge, with their value, so that one bad run does
    not press the others together.

    Args:
        shades: (from, to, CSS class) behind them.
        note: what the figure shows, in words.
    """
    drawn = [s for s in series if s.points]
    if not drawn:
        return (
            f"<figure><figcaption>{escape(title)}</figcaption>"
            '<p class="none">nothing recorded</p></figure>'
        )
    xs = [x for s in drawn for x, _ in s.points] + [v for a, b, _ in shades for v in (a, b)]
    ys = [y for s in drawn for _, y in s.points]
    dots = [s for s in drawn if s.kind == "dots"]
    if len(dots) == len(drawn):
        xs, ys = _near(xs), _near(ys)
    frame = Frame(xs, ys, x_name, y_name, percent, zero)
    for begin, end, style in shades:
        left, right = frame.x(begin), frame.x(end)
        frame.parts.insert(
            0,
            f'<rect class="{style}" x="{left:.1f}" y="{TOP}" '
            f'width="{max(0.0, right - left):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>',
        )
    for s in drawn:
        at = [(frame.x(x), frame.y(y)) for x, y in s.points]
        if s.kind == "line" and len(set(at)) == 1:  # a line of one point would not be seen
            frame.parts.append(_dot(*at[0], s.name, s.color))
            continue
        if s.kind == "dots":
            for (x, y), label in zip(at, s.labels or [s.name] * len(at), strict=True):
                frame.parts.append(_dot(x, y, label, s.color))
            continue
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in at)
        frame.parts.append(f'<path d="M{path}" fill="none" stroke="{s.color}" stroke-width="2"/>')
    frame.parts += _names(frame, dots)
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{explained(note)}{frame.svg(title)}"
        f"{legend(drawn) if len(drawn) > 1 else ''}</figure>"
    )


def explained(note: str) -> str:
    """Return a paragraph that says what a figure or table shows; "" without one."""
    return f'<p class="what">{escape(note)}</p>' if note else ""


def _near(values: Sequence[float]) -> list[float]:
    """Return the values without those more than three times the spread of the middle half beyond
    it, if they are few enough to tell: of four or more."""
    if len(values) < 4:
        return list(values)
    low, _, high = quantiles(values, n=4, method="inclusive")
    far = 3 * (high - low) + 0.02 * max(abs(low), abs(high))
    return [v for v in values if low - far <= v <= high + far]


def _dot(x: float, y: float, label: str, color: str) -> str:
    """Return a dot; one beyond the frame as a ring at its edge with its label."""
    inside = min(max(x, LEFT), WIDTH - RIGHT), min(max(y, TOP), HEIGHT - BOTTOM)
    told = f"<title>{escape(label)}</title>"
    if abs(inside[0] - x) + abs(inside[1] - y) < 0.5:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{color}">{told}</circle>'
    x, y = inside
    right = x > (LEFT + WIDTH) / 2
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="{color}" stroke-width="3">'
        f'{told}</circle><text class="name" x="{x + (-11 if right else 11):.1f}" y="{y + 5:.1f}" '
        f'text-anchor="{"end" if right else "start"}" fill="{color}">'
        f"outside: {escape(label)}</text>"
    )


def _names(frame: Frame, series: Sequence[Series]) -> list[str]:
    """Return the series' names beside the middle of their dots, moved apart where they meet."""
    placed = []
    for s in series:
        at = [(frame.x(x), frame.y(y)) for x, y in s.points]
        inside = [p for p in at if LEFT <= p[0] <= WIDTH - RIGHT and TOP <= p[1] <= HEIGHT - BOTTOM]
        if inside:  # those outside have a label of their own
            x, y = (median(p[i] for p in inside) for i in (0, 1))
            placed.append((max(y, TOP + 20), x, s))
    out, last = [], -math.inf
    for y, x, s in sorted(placed, key=lambda p: p[0]):
        last = max(y, last + 15)
        right = x > (LEFT + WIDTH) / 2
        out.append(
            f'<text class="name" x="{x + (-11 if right else 11):.1f}" y="{last - 9:.1f}" '
            f'text-anchor="{"end" if right else "start"}" fill="{s.color}">{escape(s.name)}</text>'
        )
    return out


def histogram(
    title: str, values: Sequence[float], x_name: str, bins: int = 40, note: str = ""
) -> str:
    """Return how many values lie where, as bars."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return chart(title, [], x_name, "examples")
    low, high = 0.0, max(finite) or 1.0
    counts = [0] * bins
    for v in finite:
        counts[min(bins - 1, int((v - low) / (high - low) * bins))] += 1
    frame = Frame([low, high], [0, max(counts)], x_name, "examples", zero=True)
    for i, count in enumerate(counts):
        x = frame.x(low + (high - low) * i / bins)
        wide = frame.x(low + (high - low) * (i + 1) / bins) - x
        frame.parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{frame.y(count):.1f}" '
            f'width="{max(1.0, wide - 1):.1f}" '
            f'height="{HEIGHT - BOTTOM - frame.y(count):.1f}"/>'
        )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{explained(note)}{frame.svg(title)}"
        "</figure>"
    )


def stacked(
    title: str,
    rows: Sequence[tuple[str, dict[str, float]]],
    colors: dict[str, str],
    unit: str,
    note: str = "",
) -> str:
    """Return one horizontal bar a row, its parts side by side, in HTML."""
    most = max((sum(parts.values()) for _, parts in rows), default=0.0) or 1.0
    lines = []
    for name, parts in rows:
        bars = "".join(
            f'<b style="width:{v / most:.3%};background:{colors[k]}" '
            f'title="{escape(k)}: {v:.1f} {unit}"></b>'
            for k, v in parts.items()
            if v > 0
        )
        lines.append(
            f'<div class="row"><span>{escape(name)}</span><div class="track">{bars}</div>'
            f"<em>{sum(parts.values()):.1f} {unit}</em></div>"
        )
    keys = [Series(k, [(0, 0)], c) for k, c in colors.items()]
    return (
        f'<figure class="wide"><figcaption>{escape(title)}</figcaption>{explained(note)}'
        f"{''.join(lines)}"
        f"{legend(keys)}</figure>"
    )
