"""How answers, training sets and jobs look in a notebook and in a terminal.

Every ``*_html`` and ``*_svg`` function gives one fragment that stands alone: HTML and inline SVG made by hand, no
script, nothing fetched, everything that comes from data escaped. Colours are translucent or ``currentColor``, so that a
fragment is readable on a light and on a dark page whatever decides which of them it is; a colour never says anything
that a word does not say as well. Every list has a limit, named below, because a notebook keeps what it shows.

A body may lack optional fields (``metadata: false``); it is shown as far as it goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._markup import (
    ACCENT,
    LEVEL_COLOURS,
    NEUTRAL,
    ROWS_MAX,
    STATUS_COLOURS,
    Html,
    and_more,
    badge,
    dimmed,
    escaped,
    fact_list,
    fragment,
    heading,
    moment,
    note_line,
    shortened,
    spanned,
    subheading,
    table_of,
    value_cell,
)
from ._numbers import human_bytes, human_count, human_duration, percent, several
from ._plots import age_strips, age_svg, histogram_svg, legend_line, rect, share_bar, svg_of
from ._progress import ProgressBar

__all__ = [
    "ProgressBar",
    "age_svg",
    "features_html",
    "histogram_svg",
    "human_bytes",
    "human_count",
    "human_duration",
    "manifest_html",
    "services_html",
    "status_html",
    "table_html",
    "views_html",
]

# Features shown of one answer, training set or view.
_FEATURES_MAX = 200
# Files, services, views, entities and positions shown.
_ENTRIES_MAX = 100
# Up to this many entity rows, features go down the page and rows across: names are longer than values.
_ROWS_ACROSS_MAX = 4
# From this many entity rows on, ages are drawn as well: below, the table says it better.
_AGE_PLOT_ROWS_MIN = 8
# Strips of one plot of ages. Features of one view share their ages, so there are about as many strips as views.
_STRIPS_MAX = 12
# Histograms of one training set.
_HISTOGRAMS_MAX = 60

_LEVEL_WORDS = {
    "healthy": "every value is fresh, or honestly missing or null",
    "stale": "some value is older than its soft TTL",
    "degraded": "a default stands in because a value expired or the store did not answer",
    "critical": "nothing came from the store although all should have",
}
_AVAILABILITY_WORDS = {
    "known": "values as they were known at each label's moment",
    "event": "values by event time, also those that arrived later",
}


def table_html(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    note: str | None = None,
    rows_max: int = ROWS_MAX,
) -> str:
    """A table: numbers to the right, ``status`` and ``level`` columns as badges, at most ``rows_max`` rows.

    ``rows``: shape ``[row][column]``. Raises :class:`ValueError` when a row has more or fewer cells than ``columns``.

    >>> html = table_html("Jobs <1>", ["view", "rows", "status"], [["a&b", 3, "fresh"]] * 3, rows_max=2)
    >>> "Jobs &lt;1&gt;" in html, "a&amp;b" in html, '<td class="sh-num">3</td>' in html, "… and 1 more row" in html
    (True, True, True, True)
    """
    worded = {i for i, name in enumerate(columns) if name.lower() in ("status", "level")}
    # Cells are made for what is shown; the rest is counted.
    cells = [
        [badge(cell) if i in worded and isinstance(cell, str) else cell for i, cell in enumerate(row)]
        for row in rows[:rows_max]
    ]
    body = table_of(columns, cells, rows_max=rows_max) + and_more(len(rows) - len(cells), "row")
    return fragment(heading(title), body, note_line(note) if note else "", title=title)


def features_html(body: Mapping[str, Any]) -> str:
    """The answer of ``POST /v1/features``, in either format, with or without metadata.

    Up to four entity rows go across the page, more go down it. From eight rows on their ages are drawn as well.

    >>> html = features_html({"at": "2026-01-02T03:04:05.000000Z", "level": "stale", "row_count": 1, "features": {
    ...     "orders_1h": {"type": "int64", "values": [3], "status": ["stale"], "age_s": [185]}}})
    >>> [word in html for word in ("orders_1h", "int64", ">3<", "stale", "3 m 5 s", "2026-01-02 03:04:05 UTC")]
    [True, True, True, True, True, True]
    """
    columns = _feature_columns(body)
    rows = int(body.get("row_count", 0))
    level = str(body.get("level", ""))
    head = heading(
        "Features",
        badge(level) if level else None,
        f"{several(rows, 'row')} × {several(len(columns), 'feature')}",
        dimmed(moment(body.get("at", ""))),
        spanned("sh-dim sh-mono", str(body["definition"])[:12], "definition " + str(body["definition"]))
        if body.get("definition")
        else None,
    )
    words = note_line(_LEVEL_WORDS[level]) if level in _LEVEL_WORDS and level != "healthy" else ""
    shown = dict(list(columns.items())[:_FEATURES_MAX])
    if not shown or rows == 0:
        table = note_line("no rows" if shown else "no features")
    elif rows == 1:
        table = _one_row(shown)
    elif rows <= _ROWS_ACROSS_MAX:
        table = _rows_across(shown, rows)
    else:
        table = _rows_down(shown, rows)
    ages = _ages_of(shown) if rows >= _AGE_PLOT_ROWS_MIN else ""
    positions = body.get("positions") or []
    cuts = ""
    if positions:
        # A view of a table has no place in the log; the server writes -1.
        lines = [[p["view"], p["cut"] if p["cut"] >= 0 else dimmed("a table")] for p in positions]
        table_of_cuts = table_of(["view", "below offset"], lines, rows_max=_ENTRIES_MAX, numeric=[1])
        cuts = subheading("Log positions read at") + table_of_cuts
    return fragment(head, words, table, and_more(len(columns) - len(shown), "feature"), ages, cuts, title="Features")


def _feature_columns(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Columns by feature, whichever way the answer is laid out."""
    if body.get("features") is not None:
        return dict(body["features"])
    rows = body.get("rows") or []
    types = body.get("types") or {}
    names = list(types) or list(rows[0]["values"] if rows else ())
    columns: dict[str, Mapping[str, Any]] = {}
    for name in names:
        column: dict[str, Any] = {"type": types[name]} if name in types else {}
        for key in ("values", "status", "age_s", "event_time", "origin"):
            if rows and key in rows[0]:
                column[key] = [row[key][name] for row in rows]
        columns[name] = column
    return columns


def _one_row(columns: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(columns.values()))
    keys = [key for key in ("type", "values", "status", "age_s", "event_time", "origin") if key in first]
    titles = {"values": "value", "age_s": "age", "event_time": "event time"}
    lines = [[escaped(name), *(_cell(key, column) for key in keys)] for name, column in columns.items()]
    numeric = [1 + i for i, key in enumerate(keys) if key in ("values", "age_s")]
    heads = ["feature", *(titles.get(key, key) for key in keys)]
    return table_of(heads, lines, rows_max=_FEATURES_MAX, numeric=numeric)


def _cell(key: str, column: Mapping[str, Any]) -> Html:
    if key == "type":
        return dimmed(column[key])
    value = column[key][0]
    if key == "values":
        return value_cell(value)
    if value is None:
        return dimmed("–")
    if key == "status":
        return badge(value)
    return escaped({"age_s": human_duration, "event_time": moment}.get(key, str)(value))


def _rows_across(columns: Mapping[str, Mapping[str, Any]], rows: int) -> str:
    typed = "type" in next(iter(columns.values()))
    heads = ["feature", *(["type"] if typed else []), *(f"row {row}" for row in range(rows))]
    lines = []
    for name, column in columns.items():
        kind = [dimmed(column["type"])] if typed else []
        lines.append([escaped(name), *kind, *(_value_with_status(column, row) for row in range(rows))])
    return table_of(heads, lines, rows_max=_FEATURES_MAX, numeric=range(1 + typed, len(heads)))


def _rows_down(columns: Mapping[str, Mapping[str, Any]], rows: int) -> str:
    heads: list[object] = [dimmed("row")]
    for name, column in columns.items():
        kind = f'<br><span class="sh-dim sh-small">{escaped(column["type"])}</span>' if "type" in column else ""
        bar = f"<br>{share_bar(_counted(column['status']), 72)}" if "status" in column else ""
        heads.append(Html(f"{escaped(name)}{kind}{bar}"))
    shown = range(min(rows, ROWS_MAX))
    lines = [[dimmed(row), *(_value_with_status(column, row) for column in columns.values())] for row in shown]
    key = legend_line({s for c in columns.values() for s in c.get("status", ())})
    return key + table_of(heads, lines, numeric=range(len(heads))) + and_more(rows - len(shown), "row")


def _value_with_status(column: Mapping[str, Any], row: int) -> Html:
    """The value, with a badge unless it is fresh; the age is in the tooltip."""
    value = value_cell(column["values"][row])
    if "status" not in column:
        return value
    status = str(column["status"][row])
    age = column["age_s"][row] if "age_s" in column else None
    said = status if age is None else f"{status}, {human_duration(age)} old"
    # The badge comes first, so that the numbers of a column stay under each other.
    marked = "" if status == "fresh" else f"{badge(status)} "
    if column["values"][row] is None and status in ("null", "missing"):
        return Html(f'<span title="{escaped(said)}">{badge(status)}</span>')
    return Html(f'<span title="{escaped(said)}">{marked}{value}</span>')


def _counted(statuses: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status] = counts.get(status, 0) + 1
    return counts


def _ages_of(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """One strip for all features with the same ages: most often those of one view."""
    strips: dict[tuple[float | None, ...], list[str]] = {}
    for name, column in columns.items():
        ages = tuple(column.get("age_s", ()))
        if any(age is not None for age in ages):
            strips.setdefault(ages, []).append(name)
    if not strips:
        return ""
    drawn = []
    for ages, names in list(strips.items())[:_STRIPS_MAX]:
        others = f" +{len(names) - 1}" if len(names) > 1 else ""
        statuses = zip(*(columns[name]["status"] for name in names), strict=True)
        marks = [(age, _age_colour(of_row)) for age, of_row in zip(ages, statuses, strict=True)]
        drawn.append((shortened(names[0], 26) + others, ", ".join(names), marks))
    plot = f"<div>{age_strips(drawn, None, None)}</div>"
    return subheading("Ages") + plot + and_more(len(strips) - len(drawn), "strip")


def _age_colour(statuses: Sequence[str]) -> str:
    """What the statuses of values of one age say of it; a null says nothing, its neighbour does."""
    worst = next((s for s in ("unavailable", "expired", "stale") if s in statuses), "fresh")
    return STATUS_COLOURS[worst]


def status_html(body: Mapping[str, Any]) -> str:
    """The body of ``GET /v1/status``: how old each view is against what it is meant to be, and how far the log is.

    >>> html = status_html({"version": "0.1.0", "now": "2026-01-02T03:04:05.000000Z", "snapshot": 1, "definition": "ab",
    ...     "views": [{"view": "orders@1", "entity": "user", "source": "orders", "tier": "realtime", "generation": 0,
    ...                "frontier": "2026-01-02T03:04:00.000000Z", "age_s": 20.0, "slo_p95_s": 5.0, "slo_p99_s": 15.0,
    ...                "within_slo": False}]})
    >>> "orders@1" in html, "over 15 s" in html
    (True, True)
    """
    views: Sequence[Mapping[str, Any]] = body.get("views") or []
    late = sum(not view["within_slo"] for view in views)
    verdict = badge("all within target", LEVEL_COLOURS["healthy"])
    if late:
        verdict = badge(f"{late} of {several(len(views), 'view')} over target", LEVEL_COLOURS["degraded"])
    head = heading(
        "Springhouse",
        dimmed(body.get("version", "")),
        verdict if views else None,
        f"snapshot {body.get('snapshot', '?')}",
        dimmed(moment(body.get("now", ""))),
        spanned("sh-dim sh-mono", str(body.get("definition", ""))[:12], f"definition {body.get('definition', '')}"),
    )
    lines = [
        [
            view["view"],
            view["entity"],
            view["source"],
            view.get("tier") or dimmed("own"),
            dimmed("–") if view["age_s"] is None else escaped(human_duration(view["age_s"])),
            _against_target(view),
            _target_badge(view),
            _served_ages(view),
            dimmed("–") if view["frontier"] is None else dimmed(moment(view["frontier"])),
            view["generation"],
        ]
        for view in views[:_ENTRIES_MAX]
    ]
    heads = ["view", "entity", "source", "tier", "age", "against p95 and p99", "", "served p50, p95, p99", "applied until", "generation"]
    table = table_of(heads, lines, rows_max=_ENTRIES_MAX, numeric=[4, 9]) if views else note_line("no views")
    return fragment(
        head,
        table,
        and_more(len(views) - len(lines), "view"),
        _positions(body["positions"]) if body.get("positions") else "",
        _store_sizes(body["store"]) if body.get("store") else "",
        title="Status",
    )


def _served_ages(view: Mapping[str, Any]) -> Html:
    """The ages of the values served over the last minutes; nothing where none was served."""
    ages = [view.get(key) for key in ("served_p50_s", "served_p95_s", "served_p99_s")]
    if ages[0] is None:
        return dimmed("–")
    return escaped(", ".join("–" if age is None else human_duration(age) for age in ages))


def _target_colour(view: Mapping[str, Any]) -> str:
    if not view["within_slo"]:
        return LEVEL_COLOURS["degraded"]
    return LEVEL_COLOURS["healthy"] if view["age_s"] <= view["slo_p95_s"] else LEVEL_COLOURS["stale"]


def _target_badge(view: Mapping[str, Any]) -> Html:
    if view["age_s"] is None:
        return badge("never loaded", NEUTRAL)
    p95, p99 = human_duration(view["slo_p95_s"]), human_duration(view["slo_p99_s"])
    if not view["within_slo"]:
        return badge(f"over {p99}", _target_colour(view), "older than the p99 target")
    within = p95 if view["age_s"] <= view["slo_p95_s"] else p99
    return badge(f"within {within}", _target_colour(view), f"p95 {p95}, p99 {p99}")


def _against_target(view: Mapping[str, Any]) -> Html:
    """The age as a bar that ends at 4/3 of the p99 target, with a mark at both targets."""
    width, height = 150, 14
    end = max(float(view["slo_p99_s"]), 1e-6) * 4 / 3
    age = view["age_s"]
    p95, p99 = (width * min(1.0, view[key] / end) for key in ("slo_p95_s", "slo_p99_s"))
    filled = 0.0 if age is None else width * min(1.0, max(age, 0.0) / end)
    # An age of nothing is still an age: a sliver says that there is a bar.
    filled = max(filled, 1.5) if age is not None else 0.0
    said = "never loaded" if age is None else f"age {human_duration(age)}"
    said += f", p95 {human_duration(view['slo_p95_s'])}, p99 {human_duration(view['slo_p99_s'])}"
    return svg_of(
        width,
        height,
        said,
        rect(0, 4, width, 6, "currentColor", 0.13, rounded=3),
        rect(0, 4, filled, 6, _target_colour(view), 1.0, rounded=3) if filled else "",
        *(rect(x - 0.75, 1, 1.5, 12, "currentColor", 0.75) for x in (p95, p99)),
    )


def _positions(positions: Mapping[str, Any]) -> str:
    end = int(positions["log_end"])
    lines = [["log", end, _track(end, end), dimmed(f"{human_bytes(positions['log_bytes'])} on disk")]]
    for name, key in (("applied", "applied_end"), ("flushed to the lake", "flushed_end")):
        behind = end - int(positions[key])
        said = dimmed("all") if behind <= 0 else escaped(f"{human_count(behind)} behind")
        lines.append([name, positions[key], _track(positions[key], end), said])
    failing = [
        badge(word, LEVEL_COLOURS["critical"], "the server's log says why")
        for key, word in (("log_failing", "the log takes no more rows"), ("flush_failing", "the last flush failed"))
        if positions.get(key)
    ]
    shown = [[line[0], escaped(f"{line[1]:,}"), *line[2:]] for line in lines]
    until = note_line(f"everything known before {moment(positions['applied_frontier'])} is applied")
    return subheading("Push log") + " ".join(failing) + table_of(["", "offset", "", ""], shown, numeric=[1]) + until


def _track(position: int, end: int) -> Html:
    share = 1.0 if end <= 0 else min(1.0, max(0.0, position / end))
    return svg_of(
        150,
        14,
        f"{position} of {end}",
        rect(0, 4, 150, 6, "currentColor", 0.13, rounded=3),
        rect(0, 4, 150 * share, 6, ACCENT, 1.0, rounded=3) if share else "",
    )


def _store_sizes(store: Mapping[str, Any]) -> str:
    held = several(store["entities_in_memory"], "entity", "entities")
    dirty = f"{human_count(store['dirty_entities'])} changed since the last checkpoint"
    size = human_bytes(store["bytes_in_memory"])
    return subheading("Online store") + note_line(f"{held} in memory, about {size}; {dirty}")


def services_html(body: Mapping[str, Any]) -> str:
    """The body of ``GET /v1/services``: each service with its policy, and its features by view.

    >>> html = services_html({"services": [{"name": "fraud", "features": ["orders:orders_1h", "orders:orders_2h"],
    ...     "on_stale": "serve", "on_unavailable": "last_known", "on_missing": "default", "on_expired": "fail",
    ...     "readers": [], "latency_p99": "10ms"}]})
    >>> "fraud" in html, "last known" in html, "orders_2h" in html, "10ms" in html
    (True, True, True, True)
    """
    services: Sequence[Mapping[str, Any]] = body.get("services") or []
    parts = [_service(service) for service in services[:_ENTRIES_MAX]]
    return fragment(
        heading("Feature services", dimmed(human_count(len(services)))),
        *(parts or [note_line("none yet: define one and `apply`")]),
        and_more(len(services) - len(parts), "service"),
        title="Feature services",
    )


def _service(service: Mapping[str, Any]) -> str:
    by_view: dict[str, list[str]] = {}
    for reference in service["features"][:_FEATURES_MAX]:
        view, _, feature = str(reference).partition(":")
        by_view.setdefault(view, []).append(feature)
    policies = ("stale", "expired", "missing", "unavailable")
    policy = Html(" &nbsp; ".join(f"{badge(p)} {escaped(str(service['on_' + p]).replace('_', ' '))}" for p in policies))
    promise = [f"{service['latency_p99']} at p99"] if service.get("latency_p99") else []
    promise += [f"{service['availability_percent']:g}% available"] if service.get("availability_percent") else []
    facts = [
        ("what to do when", policy),
        ("promised", ", ".join(promise)),
        ("readers", ", ".join(service["readers"]) or "everyone"),
        *_people(service),
    ]
    lines = [[view, len(names), escaped(", ".join(names))] for view, names in by_view.items()]
    count = len(service["features"])
    return (
        heading(service["name"], dimmed(f"{several(count, 'feature')} of {several(len(by_view), 'view')}"))
        + (note_line(service["description"]) if service.get("description") else "")
        + fact_list(facts)
        + table_of(["view", "features", ""], lines, rows_max=_FEATURES_MAX, wrap=[2])
        + and_more(count - _FEATURES_MAX, "feature")
    )


def _people(entry: Mapping[str, Any]) -> list[tuple[str, object]]:
    tags = ", ".join(f"{key}={value}" for key, value in (entry.get("tags") or {}).items())
    return [("owner", entry.get("owner")), ("tags", tags)]


def views_html(body: Mapping[str, Any]) -> str:
    """The body of ``GET /v1/views``: entities with their keys, then every view, its features folded away.

    >>> html = views_html({"entities": [], "views": [{"name": "orders", "version": 2, "kind": "windows",
    ...     "entity": "user", "source": "orders", "hard_ttl": "6h", "features": [{"name": "orders_1h", "type": "int64",
    ...     "pii": True, "is": "count() over 1h by 1m", "default": 0}]}]})
    >>> "orders@2" in html, "count() over 1h by 1m" in html, "personal data" in html
    (True, True, True)
    """
    entities: Sequence[Mapping[str, Any]] = body.get("entities") or []
    views: Sequence[Mapping[str, Any]] = body.get("views") or []
    total = sum(len(view["features"]) for view in views)
    keys = [
        [e["name"], ", ".join(f"{k['name']}: {k['type']}" for k in e["keys"]), escaped(e.get("description", ""))]
        for e in entities[:_ENTRIES_MAX]
    ]
    known = subheading("Entities") + table_of(["entity", "keys", "description"], keys, rows_max=_ENTRIES_MAX, wrap=[2])
    shown = views[:_ENTRIES_MAX]
    return fragment(
        heading("Feature views", dimmed(f"{several(len(views), 'view')}, {several(total, 'feature')}")),
        *(_view(view) for view in shown),
        and_more(len(views) - len(shown), "view"),
        known + and_more(len(entities) - len(keys), "entity", "entities") if entities else "",
        title="Feature views",
    )


def _view(view: Mapping[str, Any]) -> str:
    of = f"of {view['entity']} from {view['source']}" if view.get("entity") else "fields, computed for each request"
    name = f"{view['name']}@{view['version']}"
    count = several(len(view["features"]), "feature")
    summary = f"<b>{escaped(name)}</b> {dimmed(', '.join([view['kind'] + ' ' + of, count]))}"
    ttl = " soft, ".join(view[key] for key in ("soft_ttl", "hard_ttl") if view.get(key))
    fields = (
        f"{field['name']}: {field['type']}{'' if field['required'] else ' (optional)'}"
        for field in view.get("request_fields", ())
    )
    facts = [
        ("tier", view.get("tier")),
        ("TTL", f"{ttl} hard" if ttl else None),
        ("only rows where", view.get("filter")),
        ("request fields", ", ".join(fields)),
        *_people(view),
    ]
    described = any(feature.get("description") for feature in view["features"])
    lines = []
    for feature in view["features"][:_FEATURES_MAX]:
        personal = f" {badge('personal data', STATUS_COLOURS['over_cap'])}" if feature.get("pii") else ""
        default = value_cell(feature["default"])
        words = [escaped(feature.get("description", ""))] if described else []
        is_text = spanned("sh-mono", feature["is"])
        lines.append([Html(f"{escaped(feature['name'])}{personal}"), dimmed(feature["type"]), is_text, default, *words])
    heads = ["feature", "type", "is", "default", *(["description"] if described else [])]
    return (
        f"<details><summary>{summary}</summary>"
        + (note_line(view["description"]) if view.get("description") else "")
        + fact_list(facts)
        + table_of(heads, lines, rows_max=_FEATURES_MAX, numeric=[3], wrap=[2, 4])
        + and_more(len(view["features"]) - len(lines), "feature")
        + "</details>"
    )


def manifest_html(manifest: Mapping[str, Any], columns: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """A training set's manifest: what it was made from, and how many values of each feature are what.

    ``columns``: by feature ``{"values": [...]}``, one item per row; features with numbers get a histogram.

    >>> html = manifest_html({"service": "fraud", "rows": 4, "availability": "known", "features": [
    ...     {"name": "orders_1h", "feature": "orders:orders_1h", "type": "int64", "rows": {"fresh": 3, "null": 1},
    ...      "null_rate": 0.25, "default_rate": 0.0}]}, {"orders_1h": {"values": [1, 2, 2, None]}})
    >>> "fraud" in html, "3 fresh (75%)" in html, html.count("<svg") >= 2
    (True, True, True)
    """
    features: Sequence[Mapping[str, Any]] = manifest.get("features") or []
    rows = int(manifest.get("rows", 0))
    availability = str(manifest.get("availability", ""))
    head = heading(
        f"Training set {manifest.get('service', '')}",
        f"{several(rows, 'row')} × {several(len(features), 'feature')}",
        badge(availability, ACCENT, _AVAILABILITY_WORDS.get(availability)) if availability else None,
    )
    labels: Mapping[str, Any] = manifest.get("labels") or {}
    facts = [
        ("availability", _AVAILABILITY_WORDS.get(availability, availability)),
        ("labels", _version(str(labels.get("name") or ""), labels.get("delta_version"))),
        ("moment of a label", labels.get("at_column")),
        ("hash of labels", spanned("sh-mono", labels["hash"]) if labels.get("hash") else None),
        ("definition", spanned("sh-mono", manifest["definition_hash"]) if manifest.get("definition_hash") else None),
        ("made by springhouse", manifest.get("springhouse")),
    ]
    shown = features[:_FEATURES_MAX]
    used = {status for feature in shown for status, count in feature["rows"].items() if count}
    table = note_line("no features")
    if features:
        table = subheading("Features") + legend_line(used) + _feature_counts(shown, rows)
    return fragment(
        head,
        fact_list(facts),
        _sources(manifest["sources"]) if manifest.get("sources") else "",
        table,
        and_more(len(features) - len(shown), "feature"),
        _histograms(shown, columns or {}),
        title="Training set",
    )


def _version(name: str, delta_version: int | None) -> str:
    return name if delta_version is None else f"{name} (Delta version {delta_version})"


def _sources(sources: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for name, source in list(sources.items())[:_ENTRIES_MAX]:
        files = source.get("files") or []
        versions = [
            f"{what} {source[key]}"
            for what, key in (
                ("Delta version", "delta_version"),
                ("stream version", "stream_delta_version"),
                ("log below", "stream_end"),
            )
            if source.get(key) is not None
        ]
        skipped = source.get("rows_skipped") or {}
        left_out = ", ".join(f"{human_count(n)} {why.replace('_', ' ')}" for why, n in skipped.items())
        named = "\n".join(f"{f['name']}  {human_count(f['rows'])} rows  {f['of']}" for f in files)
        lines.append(
            [
                name,
                spanned("sh-val", files[0]["name"] if len(files) == 1 else several(len(files), "file"), named),
                escaped(human_count(sum(f["rows"] for f in files))),
                escaped(human_bytes(sum(f["bytes"] for f in files))),
                escaped(human_count(source["rows_read"])),
                escaped(left_out) if left_out else dimmed("none"),
                escaped(", ".join(versions)) if versions else dimmed("files"),
            ]
        )
    heads = ["source", "files", "rows", "size", "rows read", "rows left out", "version"]
    table = table_of(heads, lines, rows_max=_ENTRIES_MAX, numeric=[2, 3, 4])
    return subheading("Sources") + table + and_more(len(sources) - len(lines), "source")


def _feature_counts(features: Sequence[Mapping[str, Any]], rows: int) -> str:
    lines = []
    for feature in features:
        counts: Mapping[str, int] = feature["rows"]
        others = [f"{percent(counts[s], rows)} {s.replace('_', ' ')}" for s in STATUS_COLOURS if counts.get(s)][:4]
        view = str(feature.get("feature", "")).rpartition(":")[0]
        lines.append(
            [
                escaped(feature["name"]),
                dimmed(view),
                dimmed(feature["type"]),
                share_bar(counts, 180),
                escaped(", ".join(others)),
                _rate(feature.get("null_rate")),
                _rate(feature.get("default_rate")),
            ]
        )
    heads = ["feature", "view", "type", "values by status", "", "null rate", "default rate"]
    return table_of(heads, lines, rows_max=_FEATURES_MAX, numeric=[5, 6])


def _rate(rate: float | None) -> Html:
    if rate is None:
        return dimmed("–")
    return escaped(percent(rate, 1.0)) if rate else dimmed("0%")


def _histograms(features: Sequence[Mapping[str, Any]], columns: Mapping[str, Mapping[str, Any]]) -> str:
    drawn: list[str] = []
    numeric = [
        (feature["name"], columns[feature["name"]].get("values", ()))
        for feature in features
        if feature["name"] in columns
    ]
    numeric = [(name, values) for name, values in numeric if _drawable(values)]
    for name, values in numeric[:_HISTOGRAMS_MAX]:
        drawn.append(f"<div>{histogram_svg(values, title=name, width=260, height=100)}</div>")
    if not drawn:
        return ""
    grid = f'<div class="sh-grid">{"".join(drawn)}</div>'
    return subheading("Distributions") + grid + and_more(len(numeric) - len(drawn), "histogram")


def _drawable(values: Sequence[object]) -> bool:
    first = next((value for value in values if value is not None), None)
    return isinstance(first, (int, float))
