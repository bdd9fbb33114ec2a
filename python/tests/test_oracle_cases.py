"""Cases with known answers (those of tests/conformance), as given rows: every value to the last bit."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from shop import ROOT

import springhouse
from springhouse.testing import FeatureTester

CASES = ROOT / "tests" / "conformance" / "cases.jsonl.gz"
SEED = int(os.environ.get("SPRINGHOUSE_TEST_SEED", "1"))
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
UNITS = [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)]
COLUMNS = {"id": "int64!", "event_time": "timestamp!", "known_at": "timestamp"}
ROW_COLUMNS = {"amount": "float64", "items": "int64", "merchant": "string"}
SAID = {"description": "A case", "owner": "a@example.com"}


class Text:
    """Definitions as text; JSON is YAML too."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.text = json.dumps(definitions)

    def to_yaml(self) -> str:
        return self.text


def moment(microseconds: int) -> str:
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat()


def duration(microseconds: int) -> str:
    parts = ""
    for unit, width in UNITS:
        count, microseconds = divmod(microseconds, width)
        parts += f"{count}{unit}" if count else ""
    assert microseconds == 0, "a duration is whole milliseconds"
    return parts


def aggregate(feature: dict[str, Any]) -> dict[str, Any]:
    window = feature["window"]
    declared: dict[str, Any] = {"fn": feature["fn"], "default": None}
    declared["windows"] = ["lifetime" if window is None else duration(window)]
    if window is not None:
        declared["hop"] = "exact" if feature["hop"] == 1 else duration(feature["hop"])
    declared |= {name: feature[name] for name in ("column", "n") if feature.get(name)}
    if feature["fn"] in ("top_n", "value_counts", "count_distinct"):
        declared |= {"cap": 100_000, "over_cap": None}
    if where := feature["where"]:
        value = f"'{where['value']}'" if isinstance(where["value"], str) else str(where["value"])
        declared["where"] = f"{where['column']} {where['op']} {value}"
    return declared


def definitions(case: dict[str, Any], source: dict[str, Any]) -> Text:
    parts = enumerate(case["queries"][0]["key"])
    keys = {f"key{i}": "int64" if isinstance(part, int) else "string" for i, part in parts}
    columns = {name: f"{kind}!" for name, kind in keys.items()} | COLUMNS | ROW_COLUMNS
    source = SAID | source | {"event_time": "event_time", "known_at": "known_at", "event_id": "id", "columns": columns}
    view: dict[str, Any] = SAID | {"entity": "entity", "source": "events", "tier": "batch", "ttl": "36500d"}
    if case["view"]["kind"] == "latest":
        view["ttl"] = duration(case["view"]["ttl"]) if case["view"]["ttl"] else "36500d"
        view["features"] = {f["name"]: {"column": f["column"], "default": None} for f in case["view"]["features"]}
    else:
        view["aggregate"] = {f"f{i}": aggregate(f) for i, f in enumerate(case["view"]["features"])}
    entity = SAID | {"keys": keys}
    return Text({"entities": {"entity": entity}, "sources": {"events": source}, "feature_views": {"view": view}})


def rows(case: dict[str, Any]) -> list[dict[str, Any]]:
    known = "known_at" if case["availability"] == "known" else "event_time"
    nan = {"NaN": float("nan")}
    return [
        {f"key{i}": part for i, part in enumerate(event["key"])}
        | {"id": event["id"], "event_time": moment(event["event_time"]), "known_at": moment(event[known])}
        | {name: nan.get(value, value) for name, value in event["row"].items()}
        for event in case["events"]
    ]


def plain(value: Any) -> Any:
    """Counts as the cases write them: pairs, keys as text (they are names in JSON)."""
    if isinstance(value, dict):
        return [[str(key), count] for key, count in value.items()]
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [[str(key), count] for key, count in value]
    return value


def answers(
    case: dict[str, Any], source: dict[str, Any], given: list[dict[str, Any]]
) -> Iterator[tuple[Any, Any, Any]]:
    """What is told, what is right, and where, for every query and feature."""
    tested = FeatureTester(definitions(case, source))
    features = case["view"]["features"]
    for query, right in zip(case["queries"], case["expected"], strict=True):
        entity = {f"key{i}": part for i, part in enumerate(query["key"])}
        answer = tested.features({"events": given}, at=moment(query["at"]), features=["view"], entities=entity)
        for name, feature in zip(answer.names, features, strict=True):
            told, expected = plain(answer[name][0]), plain(right["values"][feature["name"]])
            yield told, expected, (case["name"], feature, query)
            # A float is told as a float, an integer as an integer.
            yield type(told), type(expected), (case["name"], feature, query)
        if case["view"]["kind"] == "latest":
            status = answer.statuses[answer.names[0]][0]
            yield "present" if status in ("fresh", "null") else status, right["status"], (case["name"], query)


def test_given_rows_give_the_known_answers() -> None:
    """As a table whose rows come in any order, and as a stream in the order of its events."""
    draw = random.Random(SEED)
    print(f"seed {SEED}")
    compared = 0
    for line in gzip.decompress(CASES.read_bytes()).decode().splitlines():
        case = json.loads(line)
        shuffled = rows(case)
        draw.shuffle(shuffled)
        table, stream = {"table": "e.parquet", "sequence": "id"}, {"stream": "push", "history": "e.parquet"}
        for source, given in [(table, shuffled), (stream, sorted(rows(case), key=lambda row: int(row["id"])))]:
            for told, right, where in answers(case, source, given):
                assert told == right, where
                compared += 1
    assert compared > 5_000


ORDERED = """
entities:
  user: {description: Somebody, owner: a@example.com, keys: {user: int64}}
sources:
  moves:
    description: What users do
    owner: a@example.com
    table: data/moves.parquet
    event_time: at
    known_at: known
    event_id: id
    sequence: place
    columns: {at: timestamp!, known: timestamp, id: string, place: int64, user: int64!, x: float64}
feature_views:
  moved:
    description: How much
    owner: a@example.com
    entity: user
    source: moves
    tier: batch
    ttl: 36500d
    aggregate:
      count: {fn: count, windows: [1h], default: 0}
      x: {fn: last, column: x, windows: [1h], default: null}
  newest:
    description: The newest
    owner: a@example.com
    entity: user
    source: moves
    tier: batch
    ttl: 36500d
    features: {newest_x: {column: x, default: null}}
feature_services:
  all: {description: All, owner: a@example.com, features: [moved, newest]}
"""
NOON = datetime(2026, 1, 10, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "moves",
    [
        pytest.param([("a", 30, 2, 2.0), ("a", -50, 1, 1.0)], id="the copy that is not known yet stands first"),
        pytest.param([("a", -10, 2, 2.0), ("a", -50, 1, 1.0)], id="the copy that was known later stands first"),
        pytest.param([("a", -50, 2, 2.0), ("a", -50, 1, 1.0)], id="the sequence decides among copies"),
        pytest.param([("a", -60, None, 1.0), ("b", -60, -5, 2.0)], id="no place comes before any place"),
        pytest.param([("a", -60, 3, 1.0), ("b", -60, None, 2.0)], id="no place comes before, also behind"),
        pytest.param([("a", -60, None, 1.0), ("b", -60, None, 2.0)], id="without places the rows' order counts"),
        pytest.param([(None, -60, 1, 1.0), (None, -60, 2, 2.0)], id="rows without an id all count"),
    ],
)
def test_copies_and_ties_are_told_apart_as_in_a_training_set(project: Any, moves: list[tuple[Any, ...]]) -> None:
    """Of the rows with one id the first given was kept, and a row without a sequence number had number 0."""
    times = pyarrow.timestamp("us", tz="UTC")
    given = [
        {
            "at": NOON - timedelta(seconds=60),
            "known": NOON + timedelta(seconds=known),
            "id": event,
            "place": place,
            "user": 1,
            "x": x,
        }
        for event, known, place, x in moves
    ]
    types: list[Any] = [times, times, pyarrow.string(), pyarrow.int64(), pyarrow.int64(), pyarrow.float64()]
    schema = pyarrow.schema(list(zip(given[0], types, strict=True)))
    (project / "features" / "shop.yaml").write_text(ORDERED)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(given, schema), project / "data" / "moves.parquet")
    labels = pyarrow.table({"event_timestamp": pyarrow.array([NOON], times), "user": [1]})
    with springhouse.open(project) as store:
        store.apply()
        trained = store.training_set("all", labels, progress=False).to_arrow().to_pylist()[0]
    answer = FeatureTester(project).features({"moves": given}, at=NOON, features="all", entities={"user": 1})
    assert {name: answer[name][0] for name in answer.names} == {name: trained[name] for name in answer.names}
