"""Tests of one's own features: given rows, expect values. No project to open, no server, milliseconds.

>>> from springhouse.definitions import Aggregate, Definitions, Entity, FeatureView, Source
>>> user = Entity(name="user", keys={"user": "int64"})
>>> orders = Source(name="orders", stream="push", event_time="at",
...                 columns={"at": "timestamp!", "user": "int64!", "amount": "float64"})
>>> spending = FeatureView(name="spending", entity=user, source=orders, ttl="1d", aggregate={
...     "spent": Aggregate(fn="sum", column="amount", windows=["1h"], default=0.0)})
>>> tested = FeatureTester(Definitions.collect(user, orders, spending))
>>> rows = {"orders": [{"at": "2026-01-01T11:30:00Z", "user": 1, "amount": 5.0},
...                    {"at": "2026-01-01T12:00:00Z", "user": 1, "amount": 7.0}]}
>>> tested.check(rows, at="2026-01-01T12:00:00Z", entities={"user": 1}, expect={"spent_1h": 5.0})
>>> tested.check(rows, at="2026-01-01T12:00:01Z", entities={"user": 1}, expect={"spent_1h": 13.0})
Traceback (most recent call last):
...
AssertionError: features differ at 2026-01-01T12:00:01Z
  spent_1h[user=1]: expected 13.0, got 12.0 (fresh)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import _native
from .errors import InvalidInput, from_native
from .features import Features
from .table import columns_of, is_table, json_text

__all__ = ["FeatureTester", "KnownRow", "known"]


class KnownRow(dict[str, Any]):
    """A row with the moment from which the store knew it. Made by :func:`known`."""

    known_at: str | datetime


def known(row: Mapping[str, Any], at: str | datetime) -> KnownRow:
    """The row, known from ``at`` on and not by its source's table rule: an event that came late, a row that was restated.

    >>> known({"user": 1, "at": "2026-01-01T12:00:00Z"}, "2026-01-01T12:10:00Z").known_at
    '2026-01-01T12:10:00Z'
    """
    known_row = KnownRow(row)
    known_row.known_at = at
    return known_row


class FeatureTester:
    """Computes features of given rows exactly as serving does: the same checks, kernel, policies and defaults.

    ``definitions``: a project's folder, or definitions written in Python.

    Rows are dicts (or a table) by source, with the source's declared columns; a row that a push would refuse is refused
    here, with its number. A row counts as known by the source's table rule: its ``known_at`` column where it declares
    one, else its event time plus the declared ``delay``; :func:`known` says otherwise for one row. A source that is not given has no rows.
    """

    def __init__(self, definitions: Any) -> None:
        if isinstance(definitions, str | Path):
            try:
                self._files = _native.NativeProject(str(definitions)).definition_files()
            except _native.NativeError as error:
                raise from_native(error) from None
        elif (to_yaml := getattr(definitions, "to_yaml", None)) is not None:
            self._files = [("definitions.to_yaml()", to_yaml())]
        else:
            raise InvalidInput(
                "invalid_argument",
                f"definitions can't be read from a {type(definitions).__name__}",
                "give a project's folder or a springhouse.Definitions",
            )

    def features(
        self,
        rows: Mapping[str, Any],
        *,
        at: str | datetime,
        features: str | Sequence[str],
        entities: Any,
        request: Any = None,
    ) -> Features:
        """Features of entities at the moment ``at`` (RFC 3339, or a datetime with a zone).

        ``features``, ``entities`` and ``request`` are those of :meth:`springhouse.Store.features`.
        """
        body: dict[str, Any] = {"service": features} if isinstance(features, str) else {"features": list(features)}
        body |= {"entities": columns_of(entities), "full": True}
        if request is not None:
            body["request"] = columns_of(request)
        given = [(source, json_text(listed), _known(listed)) for source, listed in _listed(rows)]
        try:
            return Features(json.loads(_native.evaluate(self._files, given, _moment(at), json_text(body))))
        except _native.NativeError as error:
            raise from_native(error) from None

    def check(
        self,
        rows: Mapping[str, Any],
        *,
        at: str | datetime,
        entities: Any,
        expect: Mapping[str, Any],
        statuses: Mapping[str, Any] | None = None,
        features: str | Sequence[str] | None = None,
        request: Any = None,
        rel: float | None = None,
    ) -> None:
        """Raises AssertionError unless every feature named in ``expect`` has its value.

        ``expect``: by feature a value (for one entity row) or a list of one value per entity row; ``view:feature`` where
        two share a name. ``statuses`` likewise. ``features``: what to ask for; when left out, the views that have the
        expected names. Floats must agree to the last bit, unless ``rel`` gives a relative tolerance.
        """
        asked = features if features is not None else self._asked([*expect, *(statuses or {})])
        answer = self.features(rows, at=at, features=asked, entities=entities, request=request)
        complaints: list[str] = []
        for name, wanted in expect.items():
            complaints += _differences(answer, name, answer[_key(answer, name)], wanted, entities, rel)
        for name, wanted in (statuses or {}).items():
            found = answer.statuses[_key(answer, name)]
            complaints += _differences(answer, name, found, wanted, entities, None, what="status ")
        if complaints:
            raise AssertionError("\n  ".join([f"features differ at {_moment(at)}", *complaints]))

    def _asked(self, names: Sequence[str]) -> list[str]:
        """References to these features, in the views that have them."""
        bare = [name for name in names if ":" not in name]
        try:
            found: list[str] = json.loads(_native.feature_references(self._files, bare))
        except _native.NativeError as error:
            raise from_native(error) from None
        return list(dict.fromkeys([*found, *(name for name in names if ":" in name)]))


def _listed(rows: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    return [(source, _rows(of_source)) for source, of_source in rows.items()]


def _known(rows: list[Any]) -> list[str | None]:
    return [_moment(row.known_at) if isinstance(row, KnownRow) else None for row in rows]


def _rows(rows: Any) -> list[Any]:
    if is_table(rows):
        columns = columns_of(rows)
        assert isinstance(columns, dict)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [rows] if isinstance(rows, Mapping) else list(rows)


def _moment(at: str | datetime) -> str:
    if isinstance(at, str):
        return at
    if at.tzinfo is None:
        raise InvalidInput(
            "naive_timestamp", f"the moment {at} has no time zone", "use datetime(..., tzinfo=timezone.utc)"
        )
    return at.astimezone(timezone.utc).isoformat()


def _key(answer: Features, name: str) -> str:
    if name in answer:
        return name
    short = name.split(":", 1)[-1]
    if short in answer:
        return short
    raise InvalidInput("unknown_feature", f"`{name}` is not among the features asked for: {', '.join(answer)}")


def _differences(
    answer: Features, name: str, found: list[Any], wanted: Any, entities: Any, rel: float | None, what: str = ""
) -> list[str]:
    expected = wanted if isinstance(wanted, list) and answer.row_count == len(wanted) else [wanted]
    # A list feature of one entity row is expected as its value.
    if answer.row_count == 1 and isinstance(wanted, list) and isinstance(found[0], list):
        expected = [wanted]
    if len(expected) != answer.row_count:
        return [f"{name}: {len(expected)} {what}values expected for {answer.row_count} entity rows"]
    complaints = []
    for row, (value, right) in enumerate(zip(found, expected, strict=True)):
        if not _same(value, right, rel):
            status = answer.statuses[_key(answer, name)][row]
            complaints.append(f"{what}{name}[{_entity(entities, row)}]: expected {right!r}, got {value!r} ({status})")
    return complaints


def _same(value: Any, right: Any, rel: float | None) -> bool:
    if isinstance(value, float) and isinstance(right, int | float) and not isinstance(right, bool):
        if math.isnan(value) or math.isnan(right):
            return math.isnan(value) and math.isnan(right)
        if rel is not None:
            return math.isclose(value, right, rel_tol=rel)
        return value == right
    return type(value) is type(right) and bool(value == right)


def _entity(entities: Any, row: int) -> str:
    columns = columns_of(entities)
    pairs = columns[row].items() if isinstance(columns, list) else ((n, c[row if len(c) > row else 0]) for n, c in columns.items())
    return ", ".join(f"{name}={value}" for name, value in pairs)
