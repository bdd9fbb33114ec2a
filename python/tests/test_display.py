"""What people see: well-formed, escaped, bounded, and silent where nobody looks."""

from __future__ import annotations

import io
import math
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import pytest

from springhouse.display import (
    ProgressBar,
    age_svg,
    features_html,
    histogram_svg,
    human_bytes,
    human_count,
    human_duration,
    manifest_html,
    services_html,
    status_html,
    table_html,
    views_html,
)

# What must not get through: a tag, an attribute's end, an entity, a control character, half of a surrogate pair.
EVIL = "<script>alert('x')</script>\"><img src=x onerror=y>&amp;\x1b[2J\x00\ud800"
STATUSES = ["fresh", "stale", "expired", "missing", "null", "overflow", "over_cap", "unavailable", "denied"]
VOID = {"br"}
TAGS = {
    *("div", "span", "style", "table", "thead", "tbody", "tr", "th", "td", "br", "b", "i", "details", "summary"),
    *("svg", "title", "rect", "text", "circle"),
}


class Page(HTMLParser):
    """Reads a fragment strictly: known tags only, closed in order, no attribute that loads or runs anything."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), names
        for name, value in attrs:
            assert not name.startswith("on") and name not in ("src", "href", "srcset"), name
            assert value is not None and (name == "xmlns" or "//" not in value or name in ("title", "aria-label"))
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            assert "url(" not in data and "@import" not in data
        elif "title" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(word.strip() for word in self.words if word.strip())


def checked(html: str) -> Page:
    """The fragment read, after what holds for every fragment."""
    html.encode("utf-8")  # a lone surrogate would fail here, and in every notebook file
    assert "<script" not in html and "<img" not in html
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", html)
    assert "nan" not in re.sub(r"<title>.*?</title>|>[^<]*<", "", html).lower(), "a coordinate is not a number"
    return Page(html)


def answer(rows: int, features: int = 2, *, full: bool = False, name: str = "f") -> dict[str, Any]:
    columns = {}
    for index in range(features):
        column: dict[str, Any] = {
            "type": "float64",
            "values": [None if row % 5 == 4 else row + 0.5 for row in range(rows)],
            "status": [STATUSES[row % 5] for row in range(rows)],
            "age_s": [None if row % 5 == 3 else 10.0 ** (row % 7 + index) for row in range(rows)],
        }
        if full:
            column["event_time"] = [None if row % 2 else "2026-01-02T03:04:05.000000Z" for row in range(rows)]
            column["origin"] = ["store"] * rows
        columns[f"{name}{index}"] = column
    body: dict[str, Any] = {"at": "2026-01-02T03:04:05.678901Z", "level": "degraded", "definition": "0e3ebd5a62939850"}
    body |= {"row_count": rows, "features": columns}
    if full:
        body["positions"] = [{"view": "orders@1", "cut": 17}, {"view": "weather@1", "cut": -1}]
    return body


def as_rows(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same answer as `format: rows` gives it."""
    columns = body["features"]
    keys = [key for key in ("values", "status", "age_s", "event_time", "origin") if key in next(iter(columns.values()))]
    rows = [{key: {n: c[key][row] for n, c in columns.items()} for key in keys} for row in range(body["row_count"])]
    rest = {key: value for key, value in body.items() if key != "features"}
    return rest | {"types": {n: c["type"] for n, c in columns.items()}, "rows": rows}


def status_body(**view: Any) -> dict[str, Any]:
    line: dict[str, Any] = {
        "view": "orders@1",
        "entity": "user",
        "source": "orders",
        "tier": "realtime",
        "generation": 0,
    }
    line |= {"frontier": "2026-01-02T03:04:05.000000Z", "age_s": 1.0, "slo_p95_s": 5.0, "slo_p99_s": 15.0}
    line |= {"within_slo": True}
    positions: dict[str, Any] = {
        "log_end": 1739,
        "applied_end": 1739,
        "flushed_end": 1200,
        "log_bytes": 4096,
        "log_failing": False,
    }
    positions |= {"applied_frontier": "2026-01-02T03:04:05.000000Z", "flush_failing": False}
    store = {"entities_in_memory": 14, "bytes_in_memory": 4864, "dirty_entities": 8}
    body = {"version": "0.1.0", "now": "2026-01-02T03:04:05.000000Z", "snapshot": 3, "definition": "ab" * 16}
    return body | {"views": [line | view], "positions": positions, "store": store}


def services_body(text: str = "fraud") -> dict[str, Any]:
    entry: dict[str, Any] = {"name": text, "features": [f"{text}:{text}", "orders:orders_1h"], "on_stale": "serve"}
    entry |= {"on_unavailable": "last_known", "on_missing": "default", "on_expired": "fail", "readers": [text]}
    entry |= {"latency_p99": "10ms", "availability_percent": 99.9, "description": text, "owner": text}
    return {"services": [entry | {"tags": {text: text}}]}


def views_body(text: str = "orders") -> dict[str, Any]:
    feature = {"name": text, "type": "int64", "is": text, "default": [text, 1], "pii": True, "description": text}
    stored: dict[str, Any] = {
        "name": text,
        "version": 2,
        "kind": "windows",
        "entity": text,
        "source": text,
        "tier": "realtime",
    }
    stored |= {"soft_ttl": "15m", "hard_ttl": "6h", "filter": text, "features": [feature], "description": text}
    request: dict[str, Any] = {"name": "now", "version": 1, "kind": "request", "features": [feature | {"pii": False}]}
    request |= {"request_fields": [{"name": text, "type": "float64", "required": False}], "tags": {text: text}}
    entity = {"name": text, "keys": [{"name": text, "type": "string", "required": True}], "description": text}
    return {"entities": [entity], "views": [stored, request]}


def manifest_body(text: str = "orders", rows: int = 1000) -> dict[str, Any]:
    counts: dict[str, int] = dict.fromkeys(("expired", "missing", "null", "over_cap", "overflow", "stale"), 0) | {
        "fresh": rows
    }
    mixed = counts | {"fresh": rows - 101, "null": 100, "stale": 1}
    features = [
        {
            "name": name,
            "feature": f"{text}:{name}",
            "type": "float64",
            "rows": of,
            "null_rate": 0.1,
            "default_rate": 0.0,
        }
        for name, of in ((text, counts), (f"{text}_2", mixed))
    ]
    file = {"name": text, "bytes": 111_842, "rows": 10_346, "of": "table"}
    source: dict[str, Any] = {
        "files": [file, file | {"of": "stream"}],
        "delta_version": 4,
        "stream_delta_version": 9,
        "stream_end": 17,
    }
    source |= {"rows_read": 41_548, "rows_skipped": {"no_event_time": 3}}
    labels = {"name": text, "rows": rows, "hash": "xxh3:4efb5a0a7f8db154", "at_column": text, "delta_version": None}
    body = {"springhouse": "0.1.0", "service": text, "definition_hash": "0e3e", "availability": "known", "rows": rows}
    return body | {"labels": labels, "sources": {text: source}, "features": features}


# --- Escaping -------------------------------------------------------------------------------------------------------


def evil_answers() -> Iterator[dict[str, Any]]:
    for rows in (1, 3, 12):
        body = answer(rows, full=True, name=EVIL)
        for column in body["features"].values():
            column["values"] = [EVIL, [EVIL], {EVIL: EVIL}, EVIL * 20][:rows] + [EVIL] * (rows - 4)
            column["type"] = EVIL
            column["status"] = [EVIL] * rows
            column["origin"] = [EVIL] * rows
            column["event_time"] = [EVIL] * rows
        body |= {"level": EVIL, "definition": EVIL, "at": EVIL, "positions": [{"view": EVIL, "cut": 1}]}
        yield body


def test_nothing_from_data_becomes_markup() -> None:
    for body in evil_answers():
        assert "<script>" in checked(features_html(body)).text
        checked(features_html(as_rows(body)))
    view = {key: EVIL for key in ("view", "entity", "source", "tier", "frontier")}
    assert "<script>" in checked(status_html(status_body(**view) | {"version": EVIL, "definition": EVIL})).text
    assert "<script>" in checked(services_html(services_body(EVIL))).text
    assert "<script>" in checked(views_html(views_body(EVIL))).text
    columns = {EVIL: {"values": [1.0, None, math.nan]}}
    assert "<script>" in checked(manifest_html(manifest_body(EVIL), columns)).text
    assert "<script>" in checked(table_html(EVIL, [EVIL, "status"], [[EVIL, EVIL]], note=EVIL)).text
    checked(f"<div>{histogram_svg([1.0, 2.0], title=EVIL)}</div>")


def test_letters_of_every_script_are_kept_and_controls_are_not() -> None:
    kept = "naïve 東京 نمی\u200cخواهم 👩\u200d🔬 a\u00a0b"
    assert kept in table_html("t", ["c"], [[kept]])
    for letter in "\x00\x0b\x1c\x1f\x7f\x85\u202e\u2066\ud800":
        assert letter not in table_html("t", ["c"], [[f"a{letter}b"]])


def test_a_dollar_sign_is_not_typeset_as_mathematics() -> None:
    assert "tex2jax_ignore" in table_html("a $x$ b", ["c"], []) and "mathjax_ignore" in features_html(answer(1))


# --- Features -------------------------------------------------------------------------------------------------------


def test_one_row_says_value_status_age_and_level() -> None:
    text = checked(features_html(answer(1, full=True))).text
    for word in ("degraded", "1 row × 2 features", "2026-01-02 03:04:05 UTC", "0.5", "fresh", "1 s", "10 s", "store"):
        assert word in text
    assert "a default stands in" in text and "orders@1 17" in text and "weather@1 a table" in text


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 7, 8, 60])
def test_both_formats_look_the_same(rows: int) -> None:
    body = answer(rows)
    assert features_html(body) == features_html(as_rows(body))
    checked(features_html(body))


def test_fresh_values_have_no_badge_beside_others() -> None:
    body = answer(2)
    for column in body["features"].values():
        column["status"] = ["fresh", "stale"]
    html = features_html(body)
    assert html.count(">stale</span>") == 2 and ">fresh</span>" not in html


@pytest.mark.parametrize(("rows", "drawn"), [(7, False), (8, True)])
def test_ages_are_drawn_from_eight_rows_on(rows: int, drawn: bool) -> None:
    assert ("<circle" in features_html(answer(rows))) == drawn


def test_features_with_the_same_ages_share_a_strip() -> None:
    body = answer(10, 5)
    for column in body["features"].values():
        column["age_s"] = [1.0] * 10
    text = checked(features_html(body)).text
    assert "f0 +4" in text and "f1 +" not in text


def test_values_alone_are_shown_without_metadata() -> None:
    for rows in (1, 3, 20):
        body = answer(rows)
        for column in body["features"].values():
            del column["type"], column["status"], column["age_s"]
        text = checked(features_html(body)).text
        assert "0.5" in text and "stale" not in text


@pytest.mark.parametrize("body", [answer(0), answer(3, 0), as_rows(answer(0)), {"row_count": 0}])
def test_an_empty_answer_says_so(body: dict[str, Any]) -> None:
    text = checked(features_html(body)).text
    assert "no rows" in text or "no features" in text


def test_long_answers_are_cut_and_say_how_much() -> None:
    text = checked(features_html(answer(1_000, 201))).text
    assert "… and 950 more rows" in text and "… and 1 more feature" in text
    assert len(features_html(answer(100_000))) < 60_000


def test_long_values_are_cut_and_kept_in_the_tooltip() -> None:
    body = answer(1, 1)
    body["features"]["f0"]["values"] = [list(range(100))]
    html = features_html(body)
    assert "…</span>" in html and 'title="[0, 1, 2' in html


# --- Status, services, views ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ({}, "within 5 s"),
        ({"age_s": 5.0}, "within 5 s"),
        ({"age_s": 7.5}, "within 15 s"),
        ({"age_s": 15.1, "within_slo": False}, "over 15 s"),
        ({"age_s": None, "frontier": None, "within_slo": False}, "never loaded"),
    ],
)
def test_a_view_is_measured_against_its_target(view: dict[str, Any], words: str) -> None:
    text = checked(status_html(status_body(**view))).text
    assert words in text
    assert ("1 of 1 view over target" in text) == (not view.get("within_slo", True))


def test_a_view_with_targets_of_its_own_has_no_tier() -> None:
    body = status_body()
    del body["views"][0]["tier"]
    assert "own" in checked(status_html(body)).text


def test_the_log_says_how_far_it_is() -> None:
    body = status_body()
    text = checked(status_html(body)).text
    assert "1,739" in text and "539 behind" in text and "4 KiB on disk" in text and "failed" not in text
    body["positions"] |= {"log_failing": True, "flush_failing": True, "log_end": 0, "applied_end": 0, "flushed_end": 0}
    text = checked(status_html(body)).text
    assert "the log takes no more rows" in text and "the last flush failed" in text


def test_services_and_views_say_what_they_are() -> None:
    text = checked(services_html(services_body())).text
    assert all(word in text for word in ("fraud", "last known", "orders_1h", "99.9% available", "10ms at p99"))
    text = checked(views_html(views_body())).text
    assert all(
        word in text for word in ("orders@2", "15m soft, 6h hard", "personal data", "orders: float64 (optional)")
    )


def test_nothing_defined_yet_is_no_mistake() -> None:
    for html in (
        services_html({"services": []}),
        views_html({"entities": [], "views": []}),
        status_html({"views": []}),
    ):
        checked(html)


# --- Training sets --------------------------------------------------------------------------------------------------


def test_a_manifest_says_what_it_was_made_from() -> None:
    html = manifest_html(manifest_body())
    text = checked(html).text
    for word in ("1,000 rows × 2 features", "known", "xxh3:4efb5a0a7f8db154", "2 files", "41,548", "Delta version 4"):
        assert word in text
    for word in ("stream version 9", "log below 17", "3 no event time", "89.9% fresh", "10% null", "0.1% stale"):
        assert word in text
    assert "899 fresh (89.9%)" in html


def test_numbers_get_a_histogram_and_words_do_not() -> None:
    columns: dict[str, dict[str, Any]] = {
        "orders": {"values": [None, 1.0, 2.0]},
        "orders_2": {"values": ["a", "b", None]},
    }
    html = manifest_html(manifest_body(), columns)
    checked(html)
    assert html.count("histogram of") == 1


def test_a_training_set_without_rows_or_features_is_shown() -> None:
    checked(manifest_html(manifest_body(rows=0) | {"features": [], "sources": {}}))
    checked(manifest_html(manifest_body(rows=101)))


# --- Tables and plots -----------------------------------------------------------------------------------------------


def test_a_table_aligns_numbers_and_counts_what_it_leaves_out() -> None:
    html = table_html("t", ["name", "n", "status"], [["a", 1, "over_cap"], ["b", None, "fresh"]] * 40, rows_max=3)
    text = checked(html).text
    assert "… and 77 more rows" in text and "over cap" in text and html.count("<tr>") == 4
    assert '<td class="sh-num">1</td>' in html and "<td>a</td>" in html


def test_a_ragged_table_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, the table has 2 columns"):
        table_html("t", ["a", "b"], [[1]])


def bar_counts(svg: str) -> list[int]:
    return [int(n.replace(",", "")) for n in re.findall(r"<title>[^<]*: ([\d,]+) rows?</title>", svg)]


@pytest.mark.parametrize(
    "values",
    [
        [],
        [None],
        [math.nan, math.inf, -math.inf],
        [5.0] * 9,
        [0.0, -0.0],
        [1, 2, 2, 3],
        [True, False, None],
        [1e308, -1e308, 0.0],
        [5e-324, 0.0],
        [1.0, math.nextafter(1.0, 2.0)],
        [10**400, 1, 2],
        [float(2**60), float(2**60) + 256],
    ],
)
def test_every_number_is_in_one_bar(values: list[float | None]) -> None:
    svg = histogram_svg(values, title="t")
    checked(f"<div>{svg}</div>")
    expected = sum(v is not None and v == v and abs(v) <= sys.float_info.max for v in values)
    assert sum(bar_counts(svg)) == expected
    assert ("no values" in svg) == (expected == 0)


def test_bars_hold_what_a_plain_count_holds() -> None:
    seed = 7
    rng = random.Random(seed)
    values = [rng.gauss(0, 10) for _ in range(1_000)]
    low, high = min(values), max(values)
    plain = [0] * 30
    for value in values:
        plain[min(29, int((value - low) / (high - low) * 30))] += 1
    assert bar_counts(histogram_svg(values, title="t")) == [n for n in plain if n], f"seed {seed}"


def test_whole_numbers_get_a_bar_each() -> None:
    svg = histogram_svg([3, 3, 4, 7], title="t")
    assert [t in svg for t in ("3: 2 rows", "4: 1 row<", "7: 1 row<")] == [True] * 3


def test_what_is_no_number_is_counted_beside() -> None:
    svg = histogram_svg([1.0, 2.0, None, None, math.nan, -math.inf], title="t")
    assert "33.3% null, 1 NaN, 1 infinite" in svg and "2 of 6 rows null" in svg


def test_a_histogram_without_bins_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one bin"):
        histogram_svg([1.0], title="t", bins=0)


@pytest.mark.parametrize(
    "ages", [[], [None], [math.nan], [0.0], [-3.0], [math.inf], [1e-9, 1e12], [60.0] * 5, [0.5, 42.0, None]]
)
@pytest.mark.parametrize(
    ("soft", "hard"), [(None, None), (900.0, 21_600.0), (60.0, 60.0), (0.0, math.inf), (None, 1e12), (math.nan, -1.0)]
)
def test_a_strip_of_ages_can_always_be_drawn(ages: list[float | None], soft: float | None, hard: float | None) -> None:
    svg = age_svg(ages, soft=soft, hard=hard)
    checked(f"<div>{svg}</div>")
    drawn = sum(age is not None and age == age for age in ages)
    assert sum(bar_counts(svg)) == drawn
    assert (f"{len(ages) - drawn} without age" in svg) == (drawn < len(ages))


def test_an_age_of_exactly_the_ttl_is_within_it() -> None:
    def colours(age: float) -> list[str]:
        return re.findall(r'<circle[^>]*fill="(#\w+)"', age_svg([age], soft=60.0, hard=3600.0))

    fresh, stale, expired = colours(1.0), colours(61.0), colours(3601.0)
    assert len({*fresh, *stale, *expired}) == 3
    assert colours(60.0) == fresh and colours(3600.0) == stale


def test_many_ages_make_few_dots() -> None:
    rng = random.Random(7)
    svg = age_svg([rng.lognormvariate(4, 2) for _ in range(20_000)], soft=900.0, hard=21_600.0)
    assert svg.count("<circle") < 300 and sum(bar_counts(svg)) == 20_000


# --- Numbers --------------------------------------------------------------------------------------------------------


def test_durations_never_carry_over_their_unit() -> None:
    near = [1e-3, 1.0, 10.0, 60.0, 3_600.0, 86_400.0, 864_000.0, 31_557_600.0]
    for edge in near:
        for seconds in (edge * (1 - 1e-9), edge * 0.9999, edge, edge * 1.0001):
            text = human_duration(seconds)
            assert not re.search(r"\b(60 s|60 m|24 h|1000 (ms|µs))\b", text), (seconds, text)
            assert "e" not in text


def test_numbers_for_people_take_every_float() -> None:
    for x in (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.5, 1e-30, 1e30, 1.7e308, 5e-324):
        for say in (human_duration, human_count, human_bytes):
            assert say(x) and "nan" not in say(x)


# --- Progress -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(run: Callable[[ProgressBar, Clock], None], screen: io.StringIO | None = None) -> list[str]:
    """The lines drawn, the last one being what clears the bar."""
    screen, clock = screen or Terminal(), Clock()
    with ProgressBar(True, clock=clock, stream=screen) as bar:
        run(bar, clock)
    return screen.getvalue().split("\r")[1:]


def test_a_bar_shows_stage_share_rate_and_what_is_left() -> None:
    def run(bar: ProgressBar, clock: Clock) -> None:
        bar.update("reading", 0, 4_000_000)
        clock.now += 1
        bar.update("reading", 1_200_000, 4_000_000)

    first, second, *clear = drawn(run)
    assert "reading" in first and "0%" in first and "/s" not in first
    assert all(word in second for word in ("█", "░", "30%", "1.2 M/s", "3 s left"))
    assert "".join(clear).strip() == "" and len(clear[0]) == len(second.rstrip())


def test_a_bar_is_drawn_ten_times_a_second_at_most() -> None:
    def run(bar: ProgressBar, clock: Clock) -> None:
        for step in range(1_000):
            bar.update("reading", step, 1_000)
            clock.now += 1 / 1_024

    assert len(drawn(run)) - 2 <= 10


def test_a_new_stage_has_a_rate_of_its_own() -> None:
    def run(bar: ProgressBar, clock: Clock) -> None:
        bar.update("reading", 0, 100)
        clock.now += 1
        bar.update("reading", 100, 100)
        clock.now += 1
        bar.update("writing", 50, 100)
        clock.now += 1
        bar.update("writing", 60, 100)

    lines = drawn(run)
    assert "100/s" in lines[1] and "/s" not in lines[2] and "10/s" in lines[3] and "4 s left" in lines[3]
    assert "left" not in lines[1]


def test_an_unknown_total_counts() -> None:
    lines = drawn(lambda bar, clock: bar.update("reading", 1234, 0))
    assert "1,234" in lines[0] and "%" not in lines[0]


def test_a_line_fits_and_shows_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = drawn(lambda bar, clock: bar.update("\x1b[2Jreading\n" * 9, 1, 2))
    assert len(lines[0]) <= 39 and "\x1b" not in lines[0] and "\n" not in lines[0]


def test_a_terminal_without_unicode_gets_ascii() -> None:
    class Ascii(Terminal):
        encoding = "cp1252"

    lines = drawn(lambda bar, clock: bar.update("größe", 1, 2), Ascii())
    assert lines[0].isascii() and "#" in lines[0]


def test_nothing_is_written_where_nobody_looks() -> None:
    assert drawn(lambda bar, clock: bar.update("reading", 1, 2), io.StringIO()) == []
    screen = Terminal()
    with ProgressBar(False, stream=screen) as bar:
        bar.update("reading", 1, 2)
    assert screen.getvalue() == ""


def test_a_missing_stderr_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with ProgressBar(True) as bar:
        bar.update("reading", 1, 2)


def test_a_terminal_that_goes_away_does_not_stop_the_job() -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    screen, clock = Gone(), Clock()
    with ProgressBar(True, clock=clock, stream=screen) as bar:
        bar.update("reading", 1, 2)
        clock.now += 1
        bar.update("reading", 2, 2)
    closed = Terminal()
    with ProgressBar(True, clock=clock, stream=closed) as bar:
        bar.update("reading", 1, 2)
        closed.close()
        clock.now += 1
        bar.update("reading", 2, 2)


def test_the_bar_is_cleared_when_the_job_fails() -> None:
    screen = Terminal()
    with pytest.raises(KeyboardInterrupt), ProgressBar(True, clock=Clock(), stream=screen) as bar:
        bar.update("reading", 1, 2)
        raise KeyboardInterrupt
    assert screen.getvalue().endswith("\r")


def fake_ipython(monkeypatch: pytest.MonkeyPatch, shell_name: str) -> list[str]:
    """Puts a stand-in for IPython in place; returns the list of everything that it is asked to show."""
    shown: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            shown.append(html)

    def display(html: str, display_id: bool) -> Handle:
        assert display_id
        shown.append(html)
        return Handle()

    base = type(shell_name, (), {})
    shell = type("Shell", (base,), {})()
    ipython, displays = ModuleType("IPython"), ModuleType("IPython.display")
    vars(ipython).update(get_ipython=lambda: shell, display=displays)
    vars(displays).update(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    return shown


def test_a_notebook_has_one_display_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = fake_ipython(monkeypatch, "ZMQInteractiveShell")
    clock = Clock()
    with ProgressBar(True, clock=clock) as bar:
        bar.update("reading <rows>", 0, 100)
        bar.update("reading <rows>", 1, 100)
        clock.now += 1
        bar.update("reading <rows>", 25, 100)
    assert len(shown) == 3 and shown[-1] == ""
    assert "25%" in checked(shown[1]).text and "&lt;rows&gt;" in shown[1]


def test_ipython_in_a_terminal_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = fake_ipython(monkeypatch, "TerminalInteractiveShell")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with ProgressBar(True, clock=Clock()) as bar:
        bar.update("reading", 1, 2)
    assert shown == [] and "50%" in screen.getvalue()
