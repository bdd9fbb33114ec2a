"""How far a job is, while somebody waits for it."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from ._markup import ACCENT, dimmed, escaped, fragment
from ._numbers import digits, human_count, human_duration
from ._plots import rect, svg_of

# A terminal that is written to more often flickers, and the job waits for it.
_REDRAW_SECONDS_MIN = 0.1


class ProgressBar:
    """How far a long job is: one line in a terminal, one bar in a notebook, nothing anywhere else.

    In a terminal it is on stderr, drawn at most ten times a second, and gone when the job ends. A place that cannot be
    written to turns it silent; a job never fails because of its bar.

    >>> class Terminal(__import__("io").StringIO):
    ...     def isatty(self): return True
    >>> seconds, screen = iter([0.0, 1.0]), Terminal()
    >>> with ProgressBar(True, clock=lambda: next(seconds), stream=screen) as bar:
    ...     bar.update("reading rows", 0, 100)
    ...     bar.update("reading rows", 25, 100)
    >>> "reading rows" in screen.getvalue(), "25%" in screen.getvalue(), "25/s" in screen.getvalue()
    (True, True, True)
    >>> "3 s left" in screen.getvalue()
    True
    """

    def __init__(
        self, enabled: bool = True, *, clock: Callable[[], float] = time.monotonic, stream: TextIO | None = None
    ) -> None:
        self._clock = clock
        self._stream: TextIO | None = None
        self._notebook = False
        self._handle: Any = None
        if enabled:
            self._notebook = stream is None and _in_notebook()
            # `sys.stderr` is None under pythonw and in some services.
            chosen = stream if stream is not None else sys.stderr
            if not self._notebook and chosen is not None and _is_terminal(chosen):
                self._stream = chosen
        self._stage: str | None = None
        self._stage_began = 0.0
        self._stage_done = 0
        self._drawn_at = -math.inf
        self._drawn_width = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, stage: str, done: int, total: int) -> None:
        """Says that ``done`` of ``total`` units of ``stage`` are done; ``total`` 0 is unknown."""
        if self._stream is None and not self._notebook:
            return
        now = self._clock()
        if stage != self._stage or done < self._stage_done:
            self._stage, self._stage_began, self._stage_done = stage, now, done
        if now - self._drawn_at < _REDRAW_SECONDS_MIN:
            return
        self._drawn_at = now
        elapsed = now - self._stage_began
        rate = (done - self._stage_done) / elapsed if elapsed > 0 else 0.0
        try:
            if self._notebook:
                self._show(_bar_html(stage, done, total, rate))
            elif self._stream is not None:
                self._draw(self._stream, stage, done, total, rate)
        except (OSError, ValueError):
            # The terminal went away, or the stream is closed.
            self._stream, self._notebook = None, False

    def close(self) -> None:
        """Clears the bar; it can be called twice."""
        try:
            if self._stream is not None and self._drawn_width:
                self._stream.write("\r" + " " * self._drawn_width + "\r")
                self._stream.flush()
            if self._handle is not None:
                self._show("")
        except (OSError, ValueError):
            pass
        self._stream, self._notebook, self._handle, self._drawn_width = None, False, None, 0

    def _draw(self, stream: TextIO, stage: str, done: int, total: int, rate: float) -> None:
        # One column stays free: some terminals wrap when the last one is written.
        columns = max(10, shutil.get_terminal_size((80, 24)).columns - 1)
        plain = not (stream.encoding or "utf-8").lower().startswith("utf")
        line = _bar_line(_printable(stage), done, total, rate, columns, plain=plain)
        stream.write("\r" + line.ljust(self._drawn_width))
        stream.flush()
        self._drawn_width = len(line)

    def _show(self, html: str) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(html), display_id=True)
        else:
            self._handle.update(HTML(html))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # a replacement without it, or closed
        return False


def _in_notebook() -> bool:
    """Whether a kernel shows our HTML. Without IPython loaded there is none, so it is not imported for the question."""
    ipython = sys.modules.get("IPython")
    get_ipython = getattr(ipython, "get_ipython", None)
    shell = get_ipython() if callable(get_ipython) else None
    # The kernel's shells: ZMQInteractiveShell, and its subclasses elsewhere (Colab's is named `Shell`).
    return shell is not None and any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _bar_line(stage: str, done: int, total: int, rate: float, columns: int, *, plain: bool) -> str:
    parts = _progress_words(done, total, rate)
    if plain:
        parts = [part.encode("ascii", "replace").decode() for part in parts]
        stage = stage.encode("ascii", "replace").decode()
    words = "  ".join(parts)
    # The bar takes what the words leave, between nothing and 30.
    room = min(30, columns - len(stage) - len(words) - 4)
    if total <= 0 or room < 5:
        return f"{stage}  {words}"[:columns]
    filled = round(room * min(1.0, max(0.0, done / total)))
    full, empty = ("#", ".") if plain else ("█", "░")
    return f"{stage}  {full * filled}{empty * (room - filled)}  {words}"[:columns]


def _progress_words(done: int, total: int, rate: float) -> list[str]:
    words = [f"{min(100, max(0, done * 100 // total)):3d}%"] if total > 0 else [human_count(done)]
    if rate > 0:
        words.append(f"{human_count(rate) if rate >= 10 else digits(rate, 2)}/s")
        if 0 < done < total:
            words.append(f"{human_duration(math.ceil((total - done) / rate))} left")
    return words


def _bar_html(stage: str, done: int, total: int, rate: float) -> str:
    share = min(1.0, max(0.0, done / total)) if total > 0 else 0.0
    bar = svg_of(
        240,
        10,
        f"{stage}: {done} of {total}",
        rect(0, 1, 240, 8, "currentColor", 0.13, rounded=4),
        rect(0, 1, 240 * share, 8, ACCENT, 1.0, rounded=4) if share else "",
    )
    words = dimmed("  ".join(_progress_words(done, total, rate)))
    return fragment(f'<div class="sh-head"><span>{escaped(stage)}</span>{bar}{words}</div>')
