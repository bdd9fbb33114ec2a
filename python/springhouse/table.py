"""Rows and columns as a user has them, to JSON: columns, with every value in the spelling of the HTTP contract."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

from .errors import InvalidInput

__all__ = ["columns_of", "is_table", "json_text"]


def is_table(rows: Any) -> bool:
    """True for a frame or table, which speaks Arrow."""
    return hasattr(rows, "__arrow_c_stream__")


def columns_of(rows: Any) -> dict[str, list[Any]] | list[Any]:
    """Columns of one row (a dict of scalars), of columns, of a list of rows, or of a table.

    >>> columns_of({"origin": "JFK"})
    {'origin': ['JFK']}
    >>> columns_of({"origin": ("JFK", "EWR")})
    {'origin': ['JFK', 'EWR']}
    >>> columns_of([{"origin": "JFK"}])
    [{'origin': 'JFK'}]
    """
    if isinstance(rows, Mapping):
        return {name: _column(values) for name, values in rows.items()}
    if is_table(rows):
        return _table_columns(rows)
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        return list(rows)
    raise InvalidInput(
        "invalid_argument",
        f"entity rows can't be read from a {type(rows).__name__}",
        'give {"key": value}, {"key": [values]}, a list of row dicts, or a table',
    )


def _column(values: Any) -> list[Any]:
    if isinstance(values, list):
        return values
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        return [values]
    for method in ("to_pylist", "to_list", "tolist"):
        if (convert := getattr(values, method, None)) is not None:
            return list(convert())
    return list(values)


def _table_columns(table: Any) -> dict[str, list[Any]]:
    if hasattr(table, "to_pylist") and hasattr(table, "column_names"):  # pyarrow
        return {name: table[name].to_pylist() for name in table.column_names}
    return {str(name): _column(table[name]) for name in table.columns}  # pandas, polars


def json_text(body: Any) -> str:
    """JSON text; NaN becomes null, as it is everywhere in Springhouse.

    >>> json_text({"x": [1.5, float("nan")]})
    '{"x": [1.5, null]}'
    """
    try:
        return json.dumps(body, default=_json_value, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(body), default=_json_value, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def _json_value(value: Any) -> Any:
    """What :mod:`json` does not know, in the contract's spelling."""
    if isinstance(value, datetime):
        if value != value:  # pandas.NaT
            return None
        if value.tzinfo is None:
            raise InvalidInput(
                "naive_timestamp", f"the moment {value} has no time zone", "use datetime(..., tzinfo=timezone.utc)"
            )
        return value.astimezone(timezone.utc).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return str(value)
    for method in ("tolist", "to_pylist", "to_list"):
        # A scalar or array of numpy, pyarrow, polars; a float among them may be NaN.
        if (convert := getattr(value, method, None)) is not None:
            return _without_nan(convert())
    raise InvalidInput("invalid_argument", f"a {type(value).__name__} can't be sent: {value!r}", None)
