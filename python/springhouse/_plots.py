"""Plots as inline SVG: shares, histograms, ages. Each says in words (a title) what it draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ._markup import ACCENT, NEUTRAL, STATUS_COLOURS, TOOLTIP_LETTERS_MAX, Html, escaped, shortened
from ._numbers import human_count, human_duration, percent, several


def coordinate(x: float) -> str:
    """A coordinate: a tenth of a pixel is finer than a screen."""
    return f"{x:.1f}".removesuffix(".0")


def svg_of(width: float, height: float, said: str, *parts: str) -> Html:
    """A drawing of so many pixels; ``said`` is what a screen reader and a tooltip say of it."""
    across, down = coordinate(width), coordinate(height)
    size = f'width="{across}" height="{down}" viewBox="0 0 {across} {down}"'
    label = escaped(said)
    # Drawn for itself it has no stylesheet, so what matters is in attributes as well.
    look = 'fill="currentColor" font-size="10" font-family="system-ui,sans-serif"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look} role="img"><title>{label}</title>'
    return Html(start + "".join(parts) + "</svg>")


def rect(
    x: float, y: float, width: float, height: float, colour: str, opacity: float, *, rounded: int = 0, said: str = ""
) -> str:
    """A rectangle, with a tooltip where there is something to say."""
    place = f'x="{coordinate(x)}" y="{coordinate(y)}" width="{coordinate(width)}" height="{coordinate(height)}"'
    corners = f' rx="{rounded}"' if rounded else ""
    shade = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    inside = f"<title>{escaped(said)}</title>" if said else ""
    return f'<rect {place} fill="{colour}"{shade}{corners}>{inside}</rect>'


def svg_text(x: float, y: float, text: object, *, anchor: str = "start", dim: bool = False, bold: bool = False) -> str:
    """Text of a drawing; ``y`` is its base line."""
    at = f' text-anchor="{anchor}"' if anchor != "start" else ""
    look = (' fill-opacity="0.66"' if dim else "") + (' font-weight="600"' if bold else "")
    return f'<text x="{coordinate(x)}" y="{coordinate(y)}"{at}{look}>{escaped(text)}</text>'


def share_bar(counts: Mapping[str, int], width: float) -> Html:
    """Counts by status as one bar. A status that occurs is at least two pixels wide."""
    present = [(status, counts[status]) for status in STATUS_COLOURS if counts.get(status)]
    present += [(status, n) for status, n in counts.items() if n and status not in STATUS_COLOURS]
    total = sum(n for _, n in present)
    if not total:
        return svg_of(width, 10, "no values", rect(0, 1, width, 8, "currentColor", 0.13, rounded=2))
    least = min(2.0, width / len(present))
    spare = width - least * len(present)
    parts, x, words = [], 0.0, []
    for status, n in present:
        wide = least + spare * n / total
        said = f"{human_count(n)} {status.replace('_', ' ')} ({percent(n, total)})"
        words.append(said)
        parts.append(rect(x, 1, wide, 8, STATUS_COLOURS.get(status, NEUTRAL), 1.0, said=said))
        x += wide
    return svg_of(width, 10, ", ".join(words), *parts)


def legend_line(statuses: set[str]) -> str:
    """Which colour is which status."""
    keys = (
        f'<span class="sh-key"><i style="background:{colour}"></i>{escaped(status.replace("_", " "))}</span>'
        for status, colour in STATUS_COLOURS.items()
        if status in statuses
    )
    return f'<div class="sh-small">{"".join(keys)}</div>' if statuses else ""


def histogram_svg(
    values: Sequence[float | None], *, title: str, bins: int = 30, width: int = 320, height: int = 120
) -> str:
    """How numbers are distributed. Nulls, NaN and infinities are counted beside it, not in it.

    Whole numbers that span fewer values than there are ``bins`` get one bar each. Raises :class:`ValueError` when
    ``bins`` is less than 1.

    >>> svg = histogram_svg([1.0, 2.0, 2.0, None, float("nan")], title="delay")
    >>> "2: 2 rows" in svg, "20% null" in svg, "1 NaN" in svg
    (True, True, True)
    >>> "no values" in histogram_svg([None, None], title="delay")
    True
    """
    if bins < 1:
        raise ValueError("a histogram has at least one bin")
    numbers: list[float] = []
    nulls = nans = infinities = 0
    for value in values:
        number = None if value is None else _finite(value)
        if value is None:
            nulls += 1
        elif number is not None:
            numbers.append(number)
        elif value != value:
            nans += 1
        else:
            infinities += 1
    beside = [f"{percent(nulls, len(values))} null"] if nulls else []
    beside += [f"{human_count(nans)} NaN"] if nans else []
    beside += [f"{human_count(infinities)} infinite"] if infinities else []
    # The gauge of nulls needs 10 pixels and its distance.
    right = width - (18 if nulls else 0)
    top, bottom = 20, height - 16
    # About six pixels a letter.
    room = max(8, int((width - 6 * len(", ".join(beside))) / 6.2))
    parts = [svg_text(0, 11, shortened(title, room), bold=True)]
    parts.append(svg_text(width, 11, ", ".join(beside), anchor="end", dim=True))
    if numbers:
        parts += _bars(numbers, bins, right, top, bottom)
    else:
        parts.append(svg_text(right / 2, (top + bottom) / 2 + 3, "no values", anchor="middle", dim=True))
    parts.append(rect(0, bottom, right, 1, "currentColor", 0.5))
    if nulls:
        full = bottom - top
        tall = max(1.5, full * nulls / len(values))
        said = f"{human_count(nulls)} of {several(len(values), 'row')} null"
        parts.append(rect(width - 10, top, 10, full, "currentColor", 0.1, rounded=2, said=said))
        parts.append(rect(width - 10, bottom - tall, 10, tall, STATUS_COLOURS["null"], 1.0, rounded=2, said=said))
    said = ", ".join([f"histogram of {title}: {several(len(numbers), 'number')}", *beside])
    return svg_of(width, height, said, *parts)


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:  # an int beyond every float
        return None
    return number if math.isfinite(number) else None


def _bars(numbers: Sequence[float], bins: int, right: float, top: float, bottom: float) -> list[str]:
    low, high = min(numbers), max(numbers)
    if low == high:
        said = f"{_short(low)}: {several(len(numbers), 'row')}"
        bar = rect(right / 2 - 8, top, 16, bottom - top, ACCENT, 1.0, said=said)
        return [bar, svg_text(right / 2, bottom + 12, f"always {_short(low)}", anchor="middle", dim=True)]
    whole = high - low < bins and all(number.is_integer() for number in numbers)
    bins = int(high - low) + 1 if whole else bins
    # The difference of two floats can be more than a float; half of the smallest would be nothing.
    scale = 0.5 if math.isinf(high - low) else 1.0
    span = high * scale - low * scale
    counts = [0] * bins
    for number in numbers:
        place = number - low if whole else (number * scale - low * scale) / span * bins
        counts[min(bins - 1, int(place))] += 1
    most = max(counts)
    step = right / bins
    gap = 1 if step > 3 else 0
    parts = []
    for index, count in enumerate(counts):
        if count == 0:
            continue
        tall = max(1.5, (bottom - top) * count / most)
        if whole:
            said = _short(low + index)
        else:
            said = " to ".join(_short(low + (high / bins - low / bins) * edge) for edge in (index, index + 1))
        said += f": {several(count, 'row')}"
        parts.append(rect(index * step, bottom - tall, step - gap, tall, ACCENT, 1.0, said=said))
    middle = sorted(numbers)[(len(numbers) - 1) // 2]
    parts.append(svg_text(0, bottom + 12, _short(low), dim=True))
    if right >= 200:
        parts.append(svg_text(right / 2, bottom + 12, f"median {_short(middle)}", anchor="middle", dim=True))
    parts.append(svg_text(right, bottom + 12, _short(high), anchor="end", dim=True))
    return parts


def _short(x: float) -> str:
    return f"{x:.4g}" if abs(x) < 10_000 or abs(x) >= 1e7 or not x.is_integer() else f"{int(x):,}"


# The marks an axis of ages can have; it begins and ends at one of them.
_AGE_TICKS: tuple[tuple[float, str], ...] = (
    (1e-3, "1 ms"),
    (1e-2, "10 ms"),
    (0.1, "100 ms"),
    (1.0, "1 s"),
    (10.0, "10 s"),
    (60.0, "1 m"),
    (600.0, "10 m"),
    (3_600.0, "1 h"),
    (6 * 3_600.0, "6 h"),
    (86_400.0, "1 d"),
    (7 * 86_400.0, "7 d"),
    (30 * 86_400.0, "30 d"),
    (365.25 * 86_400.0, "1 y"),
    (3_652.5 * 86_400.0, "10 y"),
    (36_525.0 * 86_400.0, "100 y"),
)


def age_svg(ages: Sequence[float | None], *, soft: float | None, hard: float | None) -> str:
    """Ages in seconds on a logarithmic strip, with the soft and the hard TTL (seconds) marked.

    A dot stands for all ages at one place, larger when they are many. Ages below a millisecond are at the left end;
    None and NaN are counted beside it.

    >>> svg = age_svg([0.5, 42.0, None], soft=60.0, hard=3600.0)
    >>> "soft 1 m" in svg, "hard 1 h" in svg, "1 without age" in svg
    (True, True, True)
    """
    soft, hard = (ttl if ttl is not None and 0 < ttl < math.inf else None for ttl in (soft, hard))
    marks: list[tuple[float | None, str]] = []
    for age in ages:
        status = "fresh"
        if age is not None and hard is not None and age > hard:
            status = "expired"
        elif age is not None and soft is not None and age > soft:
            status = "stale"
        marks.append((age, STATUS_COLOURS[status]))
    return age_strips([("", "", marks)], soft, hard)


# Name, tooltip, and each age in seconds with its colour.
AgeStrip = tuple[str, str, Sequence[tuple[float | None, str]]]


def age_strips(strips: Sequence[AgeStrip], soft: float | None, hard: float | None) -> Html:
    """Strips (name, tooltip, ages with colours) over one axis."""
    row_height, width, beside = 20, 420, 90
    left = 196 if any(name for name, _, _ in strips) else 26
    ages = [max(0.0, age) for _, _, marks in strips for age, _ in marks if age is not None and not math.isnan(age)]
    low, high, ticks = _age_axis([*ages, *(ttl for ttl in (soft, hard) if ttl is not None)])

    def place(age: float) -> float:
        share = math.log(min(max(age, low), high) / low) / math.log(high / low)
        return left + share * width

    top = 24 if soft is not None or hard is not None else 2
    bottom = top + row_height * len(strips)
    parts = [rect(left, bottom, width, 1, "currentColor", 0.5)]
    last = -math.inf
    if ages and min(ages) < low:
        ticks = [(low, f"≤ {ticks[0][1]}"), *ticks[1:]]
    for seconds, name in ticks:
        x = place(seconds)
        parts.append(rect(x, top, 1, bottom - top + 3, "currentColor", 0.15))
        if x - last >= 38:
            parts.append(svg_text(x, bottom + 14, name, anchor="middle", dim=True))
            last = x
    # One above the other, so that they can be as near as they like.
    for ttl, word, y, colour in ((soft, "soft", 9, "stale"), (hard, "hard", 20, "expired")):
        if ttl is not None:
            x = place(ttl)
            parts.append(rect(x - 0.5, y - 8, 1.5, bottom - y + 8, STATUS_COLOURS[colour], 1.0))
            near_end = x > left + width - 70
            anchor = "end" if near_end else "start"
            parts.append(svg_text(x - 4 if near_end else x + 4, y, f"{word} {human_duration(ttl)}", anchor=anchor))
    for index, (name, tooltip, marks) in enumerate(strips):
        middle = top + row_height * (index + 0.5)
        if name:
            shown = f"<title>{escaped(shortened(tooltip, TOOLTIP_LETTERS_MAX))}</title>{escaped(name)}"
            parts.append(svg_text(left - 14, middle + 3.5, Html(shown), anchor="end"))
        parts += _dots(marks, place, middle)
        none = sum(age is None or math.isnan(age) for age, _ in marks)
        if none:
            parts.append(svg_text(left + width + 14, middle + 3.5, f"{human_count(none)} without age", dim=True))
    said = f"ages from {human_duration(min(ages))} to {human_duration(max(ages))}" if ages else "no ages"
    return svg_of(left + width + beside, bottom + 18, said, *parts)


def _dots(marks: Sequence[tuple[float | None, str]], place: Callable[[float], float], y: float) -> list[str]:
    """At most one dot per colour and three pixels, however many ages there are."""
    at: dict[tuple[int, str], list[float]] = {}
    for age, colour in marks:
        if age is not None and not math.isnan(age):
            at.setdefault((round(place(age) / 3), colour), []).append(age)
    dots = []
    for (x, colour), ages in sorted(at.items()):
        radius = min(7.0, 2.2 + 0.8 * math.log2(len(ages)))
        few, many = human_duration(min(ages)), human_duration(max(ages))
        said = f"{few if few == many else f'{few} to {many}'}: {several(len(ages), 'row')}"
        dots.append(
            f'<circle cx="{x * 3}" cy="{coordinate(y)}" r="{coordinate(radius)}" fill="{colour}" fill-opacity="0.8">'
            f"<title>{escaped(said)}</title></circle>"
        )
    return dots


def _age_axis(seconds: Sequence[float]) -> tuple[float, float, Sequence[tuple[float, str]]]:
    """Where the axis begins and ends, and its marks; at least two."""
    finite = [s for s in seconds if math.isfinite(s)]
    smallest = min(finite, default=1.0)
    largest = max(finite, default=smallest)
    last = len(_AGE_TICKS) - 1
    first = max((i for i, (tick, _) in enumerate(_AGE_TICKS) if tick <= smallest), default=0)
    end = min((i for i, (tick, _) in enumerate(_AGE_TICKS) if tick >= largest), default=last)
    if first >= end:
        first, end = max(0, min(first, last) - 1), min(last, max(first, end) + 1)
    ticks = _AGE_TICKS[first : end + 1]
    return ticks[0][0], ticks[-1][0], ticks
