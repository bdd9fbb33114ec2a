"""The answer to a request for features."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

__all__ = ["Features"]


class Features:
    """Features of one or many entity rows, with status and age of every value.

    Shapes: every list has one item per entity row, in the order of the request. Values are Python values of the declared
    type: int, float, str, bool, bytes, :class:`datetime.datetime` (UTC), :class:`datetime.date`,
    :class:`decimal.Decimal`, lists, dicts (for grouped features). A status is one of ``fresh``, ``stale``, ``expired``,
    ``missing``, ``null``, ``overflow``, ``over_cap``, ``unavailable``, ``denied``. Ages are seconds.

    >>> answer = Features({"at": "2026-01-02T03:04:05.000000Z", "level": "healthy", "row_count": 2, "features": {
    ...     "orders_1h": {"type": "int64", "values": [3, 0], "status": ["fresh", "missing"], "age_s": [0.5, None]}}})
    >>> answer["orders_1h"], answer.statuses["orders_1h"], answer.ages["orders_1h"]
    ([3, 0], ['fresh', 'missing'], [0.5, None])
    >>> answer.rows()
    [{'orders_1h': 3}, {'orders_1h': 0}]
    """

    __slots__ = ("_decoded", "body")

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = body
        self._decoded: dict[str, list[Any]] = {}

    @property
    def names(self) -> list[str]:
        """Names of the features, in the service's order."""
        return list(self.body["features"])

    @property
    def row_count(self) -> int:
        """Entity rows."""
        return int(self.body["row_count"])

    @property
    def at(self) -> datetime:
        """The moment that the values are for, UTC."""
        return _timestamp(self.body["at"])

    @property
    def level(self) -> str:
        """``healthy``, ``stale``, ``degraded`` or ``critical``: the answer as a whole."""
        return str(self.body["level"])

    @property
    def statuses(self) -> dict[str, list[str]]:
        """Statuses by feature; empty when asked for without metadata."""
        return self._column("status")

    @property
    def ages(self) -> dict[str, list[float | None]]:
        """Ages in seconds by feature, None where there is no value; empty when asked for without metadata."""
        return self._column("age_s")

    @property
    def types(self) -> dict[str, str]:
        """Declared types by feature."""
        return {name: column.get("type", "") for name, column in self.body["features"].items()}

    def _column(self, key: str) -> dict[str, list[Any]]:
        return {name: column[key] for name, column in self.body["features"].items() if key in column}

    def __getitem__(self, name: str) -> list[Any]:
        values = self._decoded.get(name)
        if values is None:
            column = self.body["features"][name]
            decode = _decoder(column.get("type", ""))
            raw = column["values"]
            values = raw if decode is None else [None if value is None else decode(value) for value in raw]
            self._decoded[name] = values
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self.body["features"])

    def __contains__(self, name: object) -> bool:
        return name in self.body["features"]

    def __len__(self) -> int:
        return self.row_count

    def to_dict(self) -> dict[str, list[Any]]:
        """Values by feature."""
        return {name: self[name] for name in self}

    def rows(self) -> list[dict[str, Any]]:
        """One dict per entity row."""
        columns = self.to_dict()
        return [{name: values[row] for name, values in columns.items()} for row in range(self.row_count)]

    def to_pandas(self) -> Any:
        """A :class:`pandas.DataFrame` with one row per entity row, in the declared types where pyarrow is installed."""
        import pandas

        try:
            return self.to_arrow().to_pandas()
        except ImportError:
            return pandas.DataFrame(self.to_dict())

    def to_polars(self) -> Any:
        """A :class:`polars.DataFrame` with one row per entity row."""
        import polars

        return polars.DataFrame(self.to_dict(), strict=False)

    def to_arrow(self) -> Any:
        """A :class:`pyarrow.Table` with one row per entity row, in the declared types."""
        import pyarrow

        types = self.types
        arrays = {name: pyarrow.array(self[name], type=_arrow_type(types[name])) for name in self}
        return pyarrow.table(arrays)

    def __repr__(self) -> str:
        return f"Features({len(self.names)} features x {self.row_count} rows, at {self.body['at']}, {self.level})"

    def _repr_html_(self) -> str:
        from .display import features_html

        return features_html(self.body)


def _timestamp(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@lru_cache(maxsize=256)
def _decoder(value_type: str) -> Callable[[Any], Any] | None:
    """How a JSON value becomes a Python value; None when it is one already."""
    simple: dict[str, Callable[[Any], Any] | None] = {
        "float32": float,
        "float64": float,
        "bytes": base64.b64decode,
        "timestamp": _timestamp,
        "date": date.fromisoformat,
    }
    if value_type in simple:
        return simple[value_type]
    if value_type.startswith("decimal"):
        return Decimal
    if value_type.startswith("vector"):
        return _list(float)
    inner = value_type[value_type.find("<") + 1 : -1]
    if value_type.startswith("list<"):
        return _list(_decoder(inner))
    if value_type.startswith("map<"):
        key, value = _split(inner)
        return _map(_decoder(key), _decoder(value))
    return None


def _list(decode: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    if decode is None:
        return None
    return lambda values: [None if value is None else decode(value) for value in values]


def _map(key: Callable[[Any], Any] | None, value: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    def decode(pairs: list[list[Any]]) -> dict[Any, Any]:
        return {
            (k if key is None or k is None else key(k)): (v if value is None or v is None else value(v)) for k, v in pairs
        }

    return decode


def _split(inner: str) -> tuple[str, str]:
    """The two types of ``map<key, value>``; a key's type has no comma outside brackets."""
    depth = 0
    for position, letter in enumerate(inner):
        depth += (letter in "<(") - (letter in ">)")
        if letter == "," and depth == 0:
            return inner[:position].strip(), inner[position + 1 :].strip()
    return inner, inner


def _arrow_type(value_type: str) -> Any:
    """The pyarrow type of a scalar; None (inferred) for the others."""
    import pyarrow

    names = {"string": "string", "bytes": "binary", "bool": "bool_", "date": "date32"}
    if value_type == "timestamp":
        return pyarrow.timestamp("us", tz="UTC")
    if value_type in ("int32", "int64", "float32", "float64") or value_type in names:
        return getattr(pyarrow, names.get(value_type, value_type))()
    return None
