"""Definitions in Python: they say what YAML says, all of it, and nothing is lost on the way to the validator."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import random
import re
import types
import typing
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from springhouse import definitions
from springhouse.definitions import (
    UNSET,
    Aggregate,
    Column,
    Definitions,
    Entity,
    FeatureService,
    FeatureView,
    FreshnessSlo,
    Kafka,
    LatestFeature,
    Population,
    RequestFeature,
    RequestView,
    ServiceSlo,
    Source,
    Stream,
    Table,
    Ttl,
)
from springhouse.errors import InvalidInput

REPOSITORY = Path(__file__).parents[2]
SEED = 20130101


def flights() -> Definitions:
    """What examples/flights/features/*.yaml say."""
    operations = "operations@example.com"
    origin = Entity(
        name="origin",
        description="Departure airport, one of EWR, JFK and LGA",
        owner=operations,
        keys={"origin": "string"},
    )
    carrier = Entity(
        name="carrier", description="Airline, by its two-letter code", owner=operations, keys={"carrier": "string"}
    )
    tail = Entity(name="tail", description="Aircraft, by its tail number", owner=operations, keys={"tailnum": "string"})
    origin_carrier = Entity(
        name="origin_carrier",
        description="An airline at an airport",
        owner=operations,
        keys={"origin": "string", "carrier": "string"},
    )
    departed = Source(
        name="departed",
        description="One event per flight that left, at the moment when it really left",
        owner=operations,
        stream="push",
        history="data/departed/*.parquet",
        event_time="departed_at",
        event_id="flight_id",
        columns={
            "departed_at": "timestamp!",
            "flight_id": "string!",
            "origin": "string!",
            "dest": "string",
            "carrier": "string!",
            "flight": "int32",
            "tailnum": "string!",
            "scheduled_at": "timestamp",
            "dep_delay": "float64",
        },
    )
    arrived = Source(
        name="arrived",
        description="One event per flight that landed, at the moment when it really landed",
        owner=operations,
        stream="push",
        history="data/arrived/*.parquet",
        event_time="arrived_at",
        event_id="flight_id",
        columns={
            "arrived_at": "timestamp!",
            "flight_id": "string!",
            "origin": "string",
            "dest": "string",
            "carrier": "string!",
            "flight": "int32",
            "tailnum": "string!",
            "arr_delay": "float64",
        },
    )
    measured = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    weather = Source(
        name="weather",
        description="Hourly weather at the three airports, published half an hour after it was observed",
        owner="weather@example.com",
        table="data/weather/*.parquet",
        event_time="observed_at",
        delay=timedelta(minutes=30),
        columns={"observed_at": "timestamp!", "origin": "string!", **dict.fromkeys(measured, "float64")},
    )
    recent = Ttl(soft=timedelta(minutes=15), hard=timedelta(hours=6))
    origin_departures = FeatureView(
        name="origin_departures",
        description="How departures went at the airport",
        owner=operations,
        entity=origin,
        source=departed,
        tier="realtime",
        ttl=recent,
        aggregate={
            "origin_departures": Aggregate(fn="count", windows=["1h", "2h", "24h"], default=0),
            "origin_late": Aggregate(fn="count", where="dep_delay >= 30", windows=["1h", "2h", "24h"], default=0),
            "origin_delay": Aggregate(
                fn=["mean", "max"], column="dep_delay", windows=["1h", "2h", "24h", "7d"], default=0.0
            ),
            "origin_idle": Aggregate(fn="seconds_since_last", windows=["24h"], default=None),
        },
    )
    carrier_departures = FeatureView(
        name="carrier_departures",
        description="How departures of the airline went, all airports together",
        owner=operations,
        entity=carrier,
        source=departed,
        tier="realtime",
        ttl=recent,
        aggregate={
            "carrier_departures": Aggregate(fn="count", windows=["1h", "2h", "24h"], default=0),
            "carrier_delay": Aggregate(
                fn=["mean"], column="dep_delay", windows=["1h", "2h", "24h", "7d"], default=Population("median")
            ),
            "carrier_delay_p90": Aggregate(
                fn="approx_quantile", q=0.9, column="dep_delay", windows=["24h", timedelta(days=7)], default=None
            ),
        },
    )
    route_departures = FeatureView(
        name="route_departures",
        description="How departures of the airline went at this airport",
        owner=operations,
        entity=origin_carrier,
        source=departed,
        tier="realtime",
        ttl=recent,
        aggregate={
            "route_departures": Aggregate(fn="count", windows=["2h", "24h"], default=0),
            "route_delay": Aggregate(
                fn=["mean"], column="dep_delay", windows=["2h", "24h", "7d"], default=Population("median")
            ),
        },
    )
    tail_departures = FeatureView(
        name="tail_departures",
        description="What the aircraft did before",
        owner=operations,
        entity=tail,
        source=departed,
        tier="realtime",
        ttl=recent,
        aggregate={
            "tail_departures": Aggregate(fn="count", windows=["24h", "7d"], default=0),
            "tail_delay": Aggregate(fn=["mean", "last"], column="dep_delay", windows=["24h", "7d"], default=None),
        },
    )
    tail_arrival = FeatureView(
        name="tail_arrival",
        description="The aircraft's last landing",
        owner=operations,
        entity=tail,
        source=arrived,
        tier="realtime",
        ttl=Ttl(soft="12h", hard="48h"),
        features={
            "last_arr_delay": LatestFeature(column="arr_delay", default=0.0),
            "last_landed_at": LatestFeature(column="arrived_at", default=None),
        },
    )
    origin_weather = FeatureView(
        name="origin_weather",
        description="The last weather report of the airport",
        owner="weather@example.com",
        entity="origin",
        source="weather",
        tier="nearline",
        ttl=Ttl(soft="2h", hard="3h"),
        features={
            "temp": LatestFeature(default=None),
            "wind_speed": LatestFeature(default=None),
            "wind_gust": LatestFeature(default=0.0),
            "precip": LatestFeature(default=0.0),
            "visib": LatestFeature(default=None),
            "pressure": LatestFeature(default=None),
        },
    )
    share = "CASE WHEN departures_1h > 0 THEN CAST(late_1h AS DOUBLE) / departures_1h ELSE 0.0 END"
    flight_request = RequestView(
        name="flight_request",
        description="What is known of the flight itself, set against what was measured",
        owner="models@example.com",
        fields={"distance": "float64!", "sched_hour": "int32!"},
        inputs={
            "origin_delay": origin_departures["origin_delay_mean_2h"],
            "route_delay": "route_departures:route_delay_mean_24h",
            "late_1h": origin_departures["origin_late_1h"],
            "departures_1h": origin_departures["origin_departures_1h"],
        },
        features={
            "distance_km": "distance * 1.609344",
            "evening": "sched_hour >= 17",
            "late_share_1h": share,
            "delay_against_route": RequestFeature(sql="origin_delay - route_delay", default=0.0),
        },
    )
    late_departure = FeatureService(
        name="late_departure",
        description="Will this flight leave 30 minutes late? Asked an hour before it is due.",
        owner="models@example.com",
        features=[
            origin_departures,
            carrier_departures,
            route_departures,
            tail_departures,
            tail_arrival,
            "origin_weather",
            flight_request,
        ],
        on_stale="serve",
        on_unavailable="default",
        slo=ServiceSlo(latency_p99=timedelta(milliseconds=10), availability="99.9%"),
    )
    return Definitions.collect(late_departure, origin_weather, weather)


def full() -> Definitions:
    """Every key and every form at least once."""
    said = {"description": "It is", "owner": "someone", "tags": {"team": "risk"}}
    user = Entity(name="user", keys={"user_id": "int64"}, **said)  # type: ignore[arg-type]
    clicks = Source(
        name="clicks",
        event_time="at",
        columns={
            "user_id": "int64!",
            "page": Column(type="string", required=True, pii=False, from_="Page", description="Its path"),
            "amount": "float64",
            "rank": "int64",
        },
        stream=Stream(
            kafka=Kafka(
                topic="clicks",
                brokers=["localhost:9092"],
                format="protobuf",
                schema='syntax = "proto3"; package shop; message Click { string page = 1; } message Other {}',
                message="shop.Click",
                start="latest",
                isolation="read_uncommitted",
                key="page",
                headers={"rank": "r"},
            )
        ),
        history=Table(path="data/clicks/", format="delta"),
        delay="30m",
        where="page <> 'x'",
        derived={"long_page": "length(page) > 10"},
        sequence="rank",
        event_id="page",
        time_zone="America/New_York",
        max_clock_skew=timedelta(seconds=5),
        max_event_age="100d",
        **said,  # type: ignore[arg-type]
    )
    lines = Source(
        name="lines",
        event_time="at",
        columns={"user_id": "int64!"},
        stream=Stream(ndjson="logs/lines.ndjson"),
    )
    prices = Source(
        name="prices",
        event_time="at",
        known_at="seen_at",
        columns={"user_id": "int64!", "seen_at": "timestamp!", "price": "float64", "same": "float64"},
        table=Table(path="data/prices.csv"),
        op="change",
    )
    recent = FeatureView(
        name="recent",
        entity=user,
        source=clicks,
        ttl=timedelta(days=7),
        version=2,
        keys={"user_id": "user_id"},
        where="amount > 0",
        derived={"double": "amount * 2"},
        aggregate={
            "pages": Aggregate(
                fn="top_n", column="page", windows=["1h"], n=3, cap=100, over_cap=None, hop="exact", default=None
            ),
            "per_page": Aggregate(
                fn="sum", column="amount", windows=["lifetime"], group_by="page", default={"a b": 1.5}
            ),
            "distinct": Aggregate(
                fn="approx_count_distinct",
                precision=12,
                column="page",
                windows=["1d"],
                hop=timedelta(seconds=30),
                where="amount > 1",
                **said,  # type: ignore[arg-type]
            ),
            "p50": Aggregate(fn="approx_quantile", q=0.5, alpha=1e-3, column="amount", windows=["1d"]),
        },
        slo=FreshnessSlo(p95=timedelta(seconds=5), p99="15s"),
        **said,  # type: ignore[arg-type]
    )
    latest = FeatureView(
        name="latest",
        entity="user",
        source=prices,
        ttl=Ttl(soft="1d", hard="7d"),
        tier="batch",
        features={
            "same": None,
            "other": "price",
            "long": LatestFeature(
                column="price",
                default=Population("mode"),
                pii=True,
                **said,  # type: ignore[arg-type]
            ),
        },
    )
    columns = FeatureView(name="columns", entity=user, source=prices, ttl="1h30m", features=["price"])
    request = RequestView(
        name="request",
        version=1,
        fields={"basket": Column(type="list<string>")},
        inputs=[columns["price"], "latest:same"],
        features={"a": "1", "b": RequestFeature(sql="a + 1", default=None, **said)},  # type: ignore[arg-type]
        **said,  # type: ignore[arg-type]
    )
    service = FeatureService(
        name="service",
        features=[recent, latest["same"], "request:a", request["b"]],
        on_stale="fail",
        on_unavailable="last_known",
        on_missing="fail",
        on_expired="default",
        readers=["role:x"],
        slo=ServiceSlo(latency_p99=timedelta(milliseconds=10), availability="99.9%"),
        **said,  # type: ignore[arg-type]
    )
    return Definitions.collect(service, lines)


def default_of(constant: Any) -> Definitions:
    return Definitions(request_views=[RequestView(name="v", features={"f": RequestFeature(sql="1", default=constant)})])


def written(given: Definitions) -> Any:
    """The YAML as a YAML 1.1 parser reads it."""
    return yaml.safe_load(given.to_yaml())


def mistakes(given: str | Definitions) -> list[dict[str, Any]]:
    """What the validator says."""
    native = pytest.importorskip("springhouse._native")
    text = given if isinstance(given, str) else given.to_yaml()
    try:
        found = json.loads(native.validate_files([("features/definitions.yaml", text)]))["mistakes"]
    except native.NativeError as error:
        found = json.loads(error.args[3])
    return [mistake for mistake in found if mistake["severity"] == "error"]


def merged(folder: Path) -> dict[str, dict[str, Any]]:
    """The sections of all files below, as one."""
    sections: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("**/*.yaml")):
        for section, objects in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            sections.setdefault(section, {}).update(objects)
    return sections


def test_the_flights_say_the_same_in_python() -> None:
    assert flights().to_dict() == merged(REPOSITORY / "examples/flights/features")


@pytest.mark.parametrize("given", [flights(), full(), Definitions()], ids=["flights", "full", "empty"])
def test_yaml_reads_back_as_the_dict(given: Definitions) -> None:
    assert written(given) == given.to_dict()
    assert max(map(len, given.to_yaml().splitlines())) <= 110


# The drift between declared.rs and the dataclasses.

DECLARED = REPOSITORY / "crates/springhouse-core/src/declared.rs"
CLASSES: dict[str, Any] = {
    "DefinitionFile": Definitions,
    "EntityDecl": Entity,
    "SourceDecl": Source,
    "LocationLong": Table,
    "StreamLong": Stream,
    "KafkaDecl": Kafka,
    "ColumnLong": Column,
    "FeatureViewDecl": FeatureView,
    "TtlDecl": Ttl,
    "FreshnessDecl": FreshnessSlo,
    "LatestLong": LatestFeature,
    "AggregateDecl": Aggregate,
    "RequestViewDecl": RequestView,
    "RequestFeatureLong": RequestFeature,
    "FeatureServiceDecl": FeatureService,
    "ServiceSloDecl": ServiceSlo,
    "PopulationDecl": Population,
}


def declared_sections() -> dict[str, tuple[set[str], set[str]]]:
    """Required and optional keys of each `section!`."""

    def keys_in(part: str) -> set[str]:
        return set(re.findall(r'^\s+"(\w+)" \w+:', part, re.MULTILINE))

    sections = {}
    for body in re.findall(r"^section! \{\n(.*?)^\}", DECLARED.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        code = re.sub(r"^\s*///.*\n", "", body, flags=re.MULTILINE)
        head = re.match(r"\s*(\w+), \"", code)
        assert head, code
        required, optional = code.split("optional {")
        sections[head[1]] = (keys_in(required), keys_in(optional))
    return sections


def test_every_section_has_a_class_and_every_key_a_field() -> None:
    sections = declared_sections()
    assert sections.keys() == CLASSES.keys()
    for section, (required, optional) in sections.items():
        fields = [field for field in dataclasses.fields(CLASSES[section]) if field.name != "name"]
        needed = {field.name.removesuffix("_") for field in fields if field.default is dataclasses.MISSING}
        assert needed == required, section
        assert {field.name.removesuffix("_") for field in fields} == required | optional, section


def test_null_can_be_said_exactly_where_yaml_can_say_it() -> None:
    text = DECLARED.read_text(encoding="utf-8")
    takes_null = {"DefaultDecl", "NullOnly"}
    assert set(re.findall(r"impl FromNode for (\w+) \{\n    const TAKES_NULL", text)) == takes_null | {"LatestDecl"}
    keys = set(re.findall(rf'"(\w+)" \w+: (?:{"|".join(takes_null)}),', text))
    fields = [field for each in CLASSES.values() for field in dataclasses.fields(each)]
    assert {field.name for field in fields if field.default is UNSET} == keys


def test_every_word_is_in_a_literal() -> None:
    text = DECLARED.read_text(encoding="utf-8")
    block = text[text.index("words! {") :].split("\n}", 1)[0]
    words = {}
    for declared in block.removeprefix("words! {").split(";"):
        if declared.strip():
            words[declared.split(":")[0].split()[0]] = set(re.findall(r'"(\w+)" =>', declared))

    def literal(of: Any, field: str) -> set[str]:
        def within(hint: Any) -> set[str]:
            if typing.get_origin(hint) is typing.Literal:
                return set(typing.get_args(hint))
            return {word for part in typing.get_args(hint) for word in within(part)}

        return within(typing.get_type_hints(of)[field])

    assert {
        "Tier": literal(FeatureView, "tier"),
        "OnStale": literal(FeatureService, "on_stale"),
        "OnUnavailable": literal(FeatureService, "on_unavailable"),
        "OnAbsent": literal(FeatureService, "on_missing") & literal(FeatureService, "on_expired"),
        "TableFormat": literal(Table, "format"),
        "MessageFormat": literal(Kafka, "format"),
        "Isolation": literal(Kafka, "isolation"),
        "StreamKind": literal(Source, "stream"),
        "PopulationStatistic": literal(Population, "population"),
        "FunctionName": literal(Aggregate, "fn"),
    } == words


def test_every_key_and_form_is_said_by_the_full_definitions() -> None:
    given = full().to_dict()
    keys: set[str] = set()

    def walk(tree: Any) -> None:
        if isinstance(tree, dict):
            keys.update(map(str, tree))
        for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
            walk(item)

    walk(given)
    every = {key for required, optional in declared_sections().values() for key in required | optional}
    assert every <= keys
    recent = given["feature_views"]["recent"]
    assert recent["ttl"] == "7d"
    assert recent["aggregate"]["pages"]["over_cap"] is None and "over_cap" not in recent["aggregate"]["p50"]
    assert given["request_views"]["request"]["inputs"] == ["columns:price", "latest:same"]
    assert given["feature_services"]["service"]["features"] == ["recent", "latest:same", "request:a", "request:b"]
    assert given["sources"]["clicks"]["columns"]["page"]["from"] == "Page"


# Texts, numbers and other constants.

NASTY = [
    *("", " ", "~", "null", "Null", "true", "yes", "No", "on", "y", "N", "nan", "inf", "infinity", ".inf", ".NaN"),
    *("0", "-1", "1_000", "0x1F", "0o17", "1e5", "1e22", "1.5", "1:30", "12:30:45", "2013-01-31", "2013-01-01T05:00Z"),
    *("a: b", "a #b", "# c", "- d", "? e", ": f", "key:", "[g]", "{h}", "a,b", "&i", "*j", "!k", "!!str l", "|", ">"),
    *("@n", "`o`", "'p'", '"q"', "%r", "\\", "\\n", "\\x41", "--- s", "...", "<<", "=", " lead", "trail ", "\ttab\t"),
    *("line\nbreak", "\n", "cr\rlf\r\n", "end\n\n", "\0", "\x07\x1b[31m", "\x7f", "\x85", "\xa0", "\u2028\u2029"),
    *("\ufeff", "\u202e", "\ufffd", "\ufffe", "\U0010ffff", "\u00e9", "e\u0301", "\u6771\u4eac", "\U0001f6eb\u200d"),
    "x" * 5000,
]


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text)[:20])
def test_a_text_stays_the_same_text(text: str) -> None:
    given = default_of([text, {"nested": text}])
    entity = Entity(name="e", description=text, keys={"k": "string"}, tags={text[:500]: text})
    for each in (given, default_of(text), Definitions(entities=[entity])):
        assert written(each) == each.to_dict()


def test_random_texts_stay_the_same() -> None:
    drawn = random.Random(SEED)
    alphabet = [*"abc01 :#-,[]{}&*!|>'\"%@`\\\n\r\t\0~?=<.+e_", *"\x85\xa0\u2028\ufeffé東\U0001f6eb"]
    texts = ["".join(drawn.choices(alphabet, k=drawn.randrange(12))) for _ in range(2000)]
    given = Definitions(entities=[Entity(name="e", keys={}, tags={text: text[::-1] for text in texts})])
    assert written(given) == given.to_dict()


@pytest.mark.parametrize(
    "number", [0, -1, 2**63, 0.0, -0.0, 0.1, 1e22, 1e16, -1e-7, 1.5e300, 5e-324, 1.7976931348623157e308]
)
def test_a_number_keeps_its_kind_and_every_bit(number: float) -> None:
    read = written(default_of(number))["request_views"]["v"]["features"]["f"]["default"]
    assert type(read) is type(number) and repr(read) == repr(number)


def test_numbers_that_are_none_are_said_as_such() -> None:
    read = written(default_of([float("inf"), float("-inf"), float("nan")]))["request_views"]["v"]["features"]["f"]
    assert list(map(repr, read["default"])) == ["inf", "-inf", "nan"]


class _Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("constant", "tree"),
    [
        (True, True),
        (_Colour.RED, "red"),
        (Fraction(1, 2), 0.5),
        (Decimal("12.50"), "12.50"),
        (Decimal("1E+3"), "1000"),
        (b"\x00\xff", base64.b64encode(b"\x00\xff").decode()),
        (date(2013, 1, 31), "2013-01-31"),
        (datetime(2013, 1, 1, 7, tzinfo=timezone(timedelta(hours=2))), "2013-01-01T05:00:00Z"),
        (datetime(2013, 1, 1, 5), "2013-01-01T05:00:00"),
        ((1, (2.0, None)), [1, [2.0, None]]),
        ({1: "a", "b": {}}, {1: "a", "b": {}}),
    ],
)
def test_constants_are_written_as_yaml_has_them(constant: Any, tree: Any) -> None:
    given = default_of(constant)
    assert given.to_dict()["request_views"]["v"]["features"]["f"]["default"] == tree
    assert written(given) == given.to_dict()


def test_numbers_of_numpy_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    read = written(default_of([numpy.float64(0.1), numpy.int64(3), numpy.float32(0.5)]))
    assert read["request_views"]["v"]["features"]["f"]["default"] == [0.1, 3, 0.5]


def test_what_no_definition_can_say_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidInput, match=r"request_views\.v\.features\.f\.default\.1") as refused:
        default_of([1, {2}]).to_yaml()
    assert refused.value.code == "invalid_argument"


def test_null_is_not_the_same_as_not_said() -> None:
    assert LatestFeature(default=None) != LatestFeature()
    view = {"entity": "e", "source": "s", "ttl": "1h"}
    features = {"a": LatestFeature(default=None), "b": LatestFeature()}
    given = Definitions(feature_views=[FeatureView(name="v", features=features, **view)])  # type: ignore[arg-type]
    assert given.to_dict()["feature_views"]["v"]["features"] == {"a": {"default": None}, "b": {}}


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(hours=24), "1d"),
        (timedelta(minutes=90), "1h30m"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(microseconds=1_500), "1ms500us"),
        (timedelta(days=7, microseconds=1), "7d1us"),
        (timedelta(0), "0s"),
        (-timedelta(seconds=1), "-1s"),
    ],
)
def test_a_timedelta_is_written_as_the_program_writes_durations(length: timedelta, text: str) -> None:
    given = Definitions(sources=[Source(name="s", event_time="at", columns={}, delay=length)])
    assert given.to_dict()["sources"]["s"]["delay"] == text


# Containers.


def test_a_name_given_twice_is_refused() -> None:
    one, other = Entity(name="user", keys={"a": "string"}), Entity(name="user", keys={"b": "string"})
    for given in ([one, other], [one, one]):
        with pytest.raises(InvalidInput, match="`user` is given twice in `entities`") as refused:
            Definitions(entities=given)
        assert refused.value.code == "duplicate_key"
    with pytest.raises(InvalidInput, match="`user` is given twice in `entities`"):
        Definitions.collect(one, other)


def test_what_is_no_definition_is_refused() -> None:
    with pytest.raises(InvalidInput, match="`entities` takes Entity, not Source"):
        Definitions(entities=[Source(name="s", event_time="at", columns={})])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="a str is no definition"):
        Definitions.collect("user")  # type: ignore[arg-type]


def test_objects_are_found_through_what_refers_to_them() -> None:
    given = full()
    names = {section: list(objects) for section, objects in given.to_dict().items()}
    assert names == {
        "entities": ["user"],
        "sources": ["clicks", "prices", "lines"],
        "feature_views": ["recent", "latest", "columns"],
        "request_views": ["request"],
        "feature_services": ["service"],
    }
    assert Definitions.collect(given, *given.feature_views) == given


def test_a_module_gives_what_is_public_in_it_and_what_that_refers_to() -> None:
    hidden = Entity(name="hidden", keys={"k": "string"})
    module = types.ModuleType("features")
    module.__dict__.update(
        _hidden=hidden,
        _draft=Entity(name="draft", keys={"k": "string"}),
        view=FeatureView(name="view", entity=hidden, source="s", ttl="1h", features=["a"]),
        other_name=hidden,
        number=3,
    )
    other = types.ModuleType("other")
    other.__dict__["everything"] = Definitions(sources=[Source(name="s", event_time="at", columns={})])
    found = Definitions.of(module, other)
    assert [list(objects) for objects in found.to_dict().values()] == [["hidden"], ["s"], ["view"]]


def test_objects_are_values() -> None:
    view = full().feature_views[0]
    assert dataclasses.replace(view) == view and dataclasses.replace(view, version=3).version == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.version = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Entity("user", {"user": "int64"})  # type: ignore[call-arg, arg-type]
    with pytest.raises(TypeError, match="a feature is given by its name"):
        list(view)  # type: ignore[call-overload]
    assert set(definitions.__all__) <= set(dir(definitions))


# The validator.


@pytest.mark.parametrize("given", [flights(), full(), Definitions()], ids=["flights", "full", "empty"])
def test_the_validator_finds_no_mistake_in_any_key_or_form(given: Definitions) -> None:
    assert mistakes(given) == []


def test_nasty_texts_are_the_same_for_the_validator() -> None:
    # The validator repeats a text that is no type in its message.
    for text in NASTY:
        (mistake,) = mistakes(Definitions(entities=[Entity(name="e", keys={"k": text})]))
        assert f"`{text}` is not a type" in mistake["message"]


def test_a_text_that_looks_like_a_number_is_a_text_for_the_validator() -> None:
    columns = {"at": "timestamp!", "k": "string!", "v": "string"}
    table = Source(name="s", table="t.csv", event_time="at", columns=columns)
    entity = Entity(name="e", keys={"k": "string"})
    for text in ("1", "true", "nan", "infinity", "null", "1e5", "~", ""):
        view = FeatureView(
            name="v", entity=entity, source=table, ttl="1h", features={"v": LatestFeature(default=text)}
        )
        assert mistakes(Definitions.collect(view)) == [], text


def test_a_mistake_has_its_line() -> None:
    wrong = dataclasses.replace(flights().feature_views[0], source="departd")
    given = dataclasses.replace(flights(), feature_views=[wrong, *flights().feature_views[1:]])
    text = given.to_yaml()
    (mistake,) = mistakes(text)
    assert "departd" in mistake["message"]
    assert text.splitlines()[mistake["line"] - 1].strip() == "source: departd"


def test_an_infinite_default_is_the_validators_to_refuse() -> None:
    (mistake,) = mistakes(default_of(float("inf")))
    assert mistake["line"] > 0
