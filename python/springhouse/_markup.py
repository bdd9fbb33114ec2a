"""The pieces that a fragment of HTML is made of. Text becomes markup here and nowhere else, so it is escaped here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from ._numbers import human_count

# Rows of a table that are shown; a person does not read more, and a notebook stays small.
ROWS_MAX = 50
# Letters of one value, and of the tooltip that shows more of it.
_VALUE_LETTERS_MAX = 60
TOOLTIP_LETTERS_MAX = 400

STATUS_COLOURS = {
    "fresh": "#2f9e6e",
    "stale": "#d9a01c",
    "expired": "#d8622a",
    "missing": "#8b919c",
    "null": "#6c8ebf",
    "overflow": "#b04ac2",
    "over_cap": "#7a5bd0",
    "unavailable": "#d03b4b",
    "denied": "#b5485d",
}
LEVEL_COLOURS = {
    "healthy": STATUS_COLOURS["fresh"],
    "stale": STATUS_COLOURS["stale"],
    "degraded": STATUS_COLOURS["expired"],
    "critical": STATUS_COLOURS["unavailable"],
}
NEUTRAL = "#8b919c"
ACCENT = "#4f86c6"

# The names begin with `sh-` because a notebook is one page. Two classes in each selector outrank a notebook's own rules
# for tables. `tex2jax_ignore` and `mathjax_ignore` (in fragment) keep a `$` in a name from being typeset.
_STYLE = """<style>
.springhouse.sh-page{font-size:13px;line-height:1.45;font-variant-numeric:tabular-nums;max-width:100%;margin:.3em 0}
.springhouse .sh-head{display:flex;flex-wrap:wrap;align-items:center;gap:.2em .7em;margin:0 0 .15em}
.springhouse .sh-title{font-weight:600;font-size:15px;overflow-wrap:anywhere}
.springhouse .sh-sub{font-weight:600;margin:1em 0 .25em}
.springhouse .sh-dim{opacity:.66}
.springhouse .sh-small{font-size:11px;font-weight:400}
.springhouse .sh-note{opacity:.66;margin:.3em 0;overflow-wrap:anywhere}
.springhouse .sh-scroll{overflow-x:auto;max-width:100%}
.springhouse .sh-table{border-collapse:collapse;border:0;margin:.35em 0;font-size:inherit;width:auto;min-width:0}
.springhouse .sh-table tbody tr,.springhouse .sh-table thead tr{background:transparent;border:0}
.springhouse .sh-table tbody tr:hover{background:rgba(128,140,160,.12)}
.springhouse .sh-table th,.springhouse .sh-table td{padding:.22em 1.1em .22em 0;border:0;
border-bottom:1px solid rgba(128,140,160,.22);text-align:left;vertical-align:middle;white-space:nowrap;
unicode-bidi:isolate;max-width:none}
.springhouse .sh-table th{font-weight:600;vertical-align:bottom;border-bottom:1px solid rgba(128,140,160,.6)}
.springhouse .sh-table .sh-num{text-align:right}
.springhouse .sh-table .sh-wrap{white-space:normal;min-width:14em;max-width:46em;overflow-wrap:anywhere}
.springhouse .sh-mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12px}
.springhouse .sh-badge{display:inline-block;padding:0 .55em 0 .45em;border-radius:.7em;font-size:11px;line-height:1.55;
white-space:nowrap;font-weight:500}
.springhouse .sh-badge i{display:inline-block;width:.6em;height:.6em;border-radius:50%;margin-right:.4em}
.springhouse .sh-key i{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.35em}
.springhouse .sh-key{margin-right:1em;white-space:nowrap}
.springhouse .sh-grid{display:flex;flex-wrap:wrap;gap:.9em 1.6em;margin:.4em 0}
.springhouse details{margin:.25em 0}
.springhouse summary{cursor:pointer}
.springhouse details[open]{margin-bottom:.9em}
.springhouse .sh-facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.1em 1.2em;margin:.35em 0}
.springhouse svg{display:inline-block;vertical-align:middle;max-width:100%;height:auto;overflow:visible}
.springhouse .sh-table svg{max-width:none}
.springhouse svg text{fill:currentColor;font-size:10px;font-family:inherit}
@media (prefers-contrast:more){.springhouse .sh-dim,.springhouse .sh-note{opacity:1}}
</style>"""


class Html(str):
    """Markup made here: what is of this type is not escaped again."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """Any value as text of the page, also within an attribute's quotes.

    Control characters and lone surrogates cannot stand in a page, and marks of direction could turn its words around:
    a replacement character takes their place.

    >>> escaped('<b title="x">'), escaped("a\\x1b[2J")
    ('&lt;b title=&quot;x&quot;&gt;', 'a\ufffd[2J')
    """
    if isinstance(value, Html):
        return value
    return Html(escape("".join(c if _can_stand(c) else "\ufffd" for c in str(value)), quote=True))


def _can_stand(letter: str) -> bool:
    # Joiners (of emoji, of Persian) are not printable by themselves; spaces below U+00A0 other than these are controls.
    return letter.isprintable() or letter in "\n\t\u200c\u200d" or (letter.isspace() and letter >= "\u00a0")


def shortened(text: str, letters_max: int) -> str:
    """At most so many letters, the last one a sign that there were more."""
    return text if len(text) <= letters_max else text[: letters_max - 1] + "…"


def fragment(*parts: str, title: str | None = None) -> str:
    """What a notebook shows: the parts (markup) with the style that they need."""
    label = f' aria-label="{escaped(title)}"' if title else ""
    inside = "".join(parts)
    return f'<div class="springhouse sh-page tex2jax_ignore mathjax_ignore" role="group"{label}>{_STYLE}{inside}</div>'


def spanned(kind: str, text: object, tooltip: str | None = None) -> Html:
    """Text of a class, with a tooltip."""
    title = f' title="{escaped(shortened(tooltip, TOOLTIP_LETTERS_MAX))}"' if tooltip else ""
    return Html(f'<span class="{kind}"{title}>{escaped(text)}</span>')


def dimmed(text: object) -> Html:
    """Text that matters less."""
    return spanned("sh-dim", text)


def badge(word: object, colour: str | None = None, tooltip: str | None = None) -> Html:
    """A word in its colour: that of the status or level of this name, unless another is given."""
    text = str(word)
    colour = colour or STATUS_COLOURS.get(text) or LEVEL_COLOURS.get(text) or NEUTRAL
    title = f' title="{escaped(tooltip)}"' if tooltip else ""
    return Html(
        f'<span class="sh-badge" style="background:{colour}2b"{title}>'
        f'<i style="background:{colour}"></i>{escaped(text.replace("_", " "))}</span>'
    )


def heading(title: object, *facts: object) -> str:
    """A title and, beside it, the facts that there are."""
    shown = "".join(f"<span>{escaped(fact)}</span>" for fact in facts if fact not in (None, ""))
    return f'<div class="sh-head"><span class="sh-title">{escaped(title)}</span>{shown}</div>'


def note_line(text: object) -> str:
    """A sentence that explains."""
    return f'<div class="sh-note">{escaped(text)}</div>'


def subheading(text: object) -> str:
    """The title of a part."""
    return f'<div class="sh-sub">{escaped(text)}</div>'


def fact_list(pairs: Sequence[tuple[str, object]]) -> str:
    """Names with values, one a line; those without a value are left out."""
    filled = [(name, value) for name, value in pairs if value not in (None, "")]
    cells = (f"<div>{dimmed(name)}</div><div>{escaped(value)}</div>" for name, value in filled)
    return f'<div class="sh-facts">{"".join(cells)}</div>'


def and_more(count: int, one: str, many: str | None = None) -> str:
    """What a limit left out; nothing when it left out nothing."""
    what = one if count == 1 else many or one + "s"
    return note_line(f"… and {human_count(count)} more {what}") if count > 0 else ""


def moment(text: object) -> str:
    """RFC 3339 without what nobody reads: ``2026-01-02T03:04:05.678901Z`` is ``2026-01-02 03:04:05 UTC``."""
    whole = str(text)
    if len(whole) >= 20 and whole[10] == "T" and whole.endswith("Z"):
        return f"{whole[:10]} {whole[11:19]} UTC"
    return whole


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def value_cell(value: object) -> Html:
    """One value of a feature; what does not fit is in its tooltip."""
    if value is None:
        return dimmed("null")
    if isinstance(value, bool):
        return escaped("true" if value else "false")
    if isinstance(value, float):
        short = f"{value:.6g}"
        return escaped(short) if float(short) == value or value != value else spanned("sh-val", short, repr(value))
    nested = isinstance(value, (dict, list, tuple))
    whole = json.dumps(value, ensure_ascii=False, default=str) if nested else str(value)
    short = shortened(whole, _VALUE_LETTERS_MAX)
    return escaped(short) if short == whole else spanned("sh-val", short, whole)


def table_of(
    columns: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    rows_max: int = ROWS_MAX,
    wrap: Sequence[int] = (),
    numeric: Sequence[int] | None = None,
) -> str:
    """The table alone. ``wrap``: columns of sentences. ``numeric``: columns aligned right; found out when None."""
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} cells, the table has {len(columns)} columns")
    shown = rows[:rows_max]
    if numeric is None:
        numeric = [i for i in range(len(columns)) if _all_numbers([row[i] for row in shown])]
    kinds = ["sh-num" if i in numeric else "sh-wrap" if i in wrap else "" for i in range(len(columns))]
    attributes = [f' class="{kind}"' if kind else "" for kind in kinds]
    heads = "".join(f'<th scope="col"{a}>{escaped(c)}</th>' for c, a in zip(columns, attributes, strict=True))
    lines = []
    for row in shown:
        cells = (c if isinstance(c, Html) else value_cell(c) for c in row)
        lines.append("<tr>" + "".join(f"<td{a}>{c}</td>" for c, a in zip(cells, attributes, strict=True)) + "</tr>")
    return (
        f'<div class="sh-scroll"><table class="sh-table"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{and_more(len(rows) - len(shown), 'row')}"
    )


def _all_numbers(cells: Sequence[object]) -> bool:
    filled = [cell for cell in cells if cell is not None]
    return bool(filled) and all(_is_number(cell) for cell in filled)
