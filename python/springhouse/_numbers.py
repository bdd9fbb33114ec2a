"""Numbers as people read them: lengths of time, counts, bytes and shares."""

from __future__ import annotations

import math
from collections.abc import Sequence


def human_duration(seconds: float) -> str:
    """A length of time in its one or two largest units.

    A year has 365.25 days. NaN gives ``?``.

    >>> [human_duration(s) for s in (0, 0.00025, 0.0015, 4.25, 42, 59.97, 185, 11_100, 183_600)]
    ['0 s', '250 µs', '1.5 ms', '4.2 s', '42 s', '1 m', '3 m 5 s', '3 h 5 m', '2 d 3 h']
    >>> human_duration(45 * 86_400), human_duration(437_012_077.388), human_duration(-5), human_duration(float("inf"))
    ('45 d', '14 y', '-5 s', '∞')
    """
    seconds = float(seconds)
    if math.isnan(seconds):
        return "?"
    if seconds < 0:
        return "-" + human_duration(-seconds)
    if math.isinf(seconds):
        return "∞"
    if seconds < 1:
        micros = round(seconds * 1e6)
        if micros < 1_000:
            return f"{micros} µs" if micros else "0 s"
        if micros < 999_500:
            return f"{digits(micros / 1e3, 3 if micros >= 100_000 else 2)} ms"
    if seconds < 9.95:
        return f"{digits(seconds, 2)} s"
    for big, small, big_name, small_name in ((60, 1, "m", "s"), (3_600, 60, "h", "m"), (86_400, 3_600, "d", "h")):
        # Rounded to the smaller unit first, so that 59.97 s is a minute and not 60 s.
        whole, rest = divmod(round(seconds / small), big // small)
        if whole == 0:
            return f"{rest} {small_name}"
        if whole < {"m": 60, "h": 24, "d": 10}[big_name]:
            return f"{whole} {big_name} {rest} {small_name}" if rest else f"{whole} {big_name}"
    days = seconds / 86_400
    if days < 365:
        return f"{round(days)} d"
    years = days / 365.25
    return f"{digits(years, 2)} y" if years < 9.95 else f"{round(years):,} y"


def human_count(n: float) -> str:
    """A number of things: all digits below a million, three above.

    >>> [human_count(n) for n in (0, 10_436, 999_999, 1_234_567, 999_999_999, 45_000_000_000)]
    ['0', '10,436', '999,999', '1.23 M', '1 G', '45 G']
    """
    if not math.isfinite(n):
        return "?" if math.isnan(n) else ("∞" if n > 0 else "-∞")
    if abs(n) < 1_000_000:
        return f"{round(n):,}"
    return _scaled(float(n), 1_000.0, ("", "k", "M", "G", "T", "P", "E"))


def human_bytes(n: float) -> str:
    """A number of bytes, in powers of 1024.

    >>> [human_bytes(n) for n in (0, 512, 1_536, 111_842, 1 << 30)]
    ['0 B', '512 B', '1.5 KiB', '109 KiB', '1 GiB']
    """
    return _scaled(float(n), 1_024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))


def _scaled(n: float, base: float, units: Sequence[str]) -> str:
    if not math.isfinite(n):
        return human_count(n)
    last = len(units) - 1
    index = 0
    # 999.5 would be written with four digits, so it is one of the next unit already.
    while index < last and abs(n) >= (base if base == 1_024.0 else 999.5):
        n /= base
        index += 1
    return f"{digits(n, 3)} {units[index]}".rstrip()


def digits(x: float, significant: int) -> str:
    """Rounded to so many digits, never in exponents, without zeros at the end."""
    if x == 0:
        return "0"
    places = max(0, significant - 1 - math.floor(math.log10(abs(x))))
    text = f"{x:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(part: float, whole: float) -> str:
    """A share that is neither 0% nor 100% unless it is exactly that."""
    if whole <= 0 or part <= 0:
        return "0%"
    share = part / whole * 100
    if part < whole and share > 99.9:
        return ">99.9%"
    return "<0.1%" if share < 0.1 else f"{digits(share, 2 if share < 10 else 3)}%"


def several(n: int, one: str, many: str | None = None) -> str:
    """A number with the right form of what is counted."""
    return f"{human_count(n)} {one if n == 1 else many or one + 's'}"
