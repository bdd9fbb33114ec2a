"""Definitions written in Python: what ``features/*.yaml`` may say, key by key, as dataclasses.

>>> origin = Entity(name="origin", keys={"origin": "string"})
>>> weather = Source(
...     name="weather",
...     table="data/weather/*.parquet",
...     event_time="observed_at",
...     delay=timedelta(minutes=30),
...     columns={"observed_at": "timestamp!", "origin": "string!", "temp": "float64"},
... )
>>> origin_weather = FeatureView(
...     name="origin_weather",
...     entity=origin,
...     source=weather,
...     ttl=Ttl(soft="2h", hard="3h"),
...     features={"temp": LatestFeature(default=None)},
... )
>>> outlook = FeatureService(name="outlook", features=[origin_weather["temp"]])
>>> print(Definitions.collect(outlook).to_yaml(), end="")
entities:
  origin:
    keys: {origin: string}
sources:
  weather:
    event_time: observed_at
    columns: {observed_at: "timestamp!", origin: "string!", temp: float64}
    table: "data/weather/*.parquet"
    delay: "30m"
feature_views:
  origin_weather:
    entity: origin
    source: weather
    ttl: {hard: "3h", soft: "2h"}
    features: {temp: {default: null}}
feature_services:
  outlook:
    features: ["origin_weather:temp"]

Give such a :class:`Definitions` to ``Store.validate``, ``Store.plan`` and ``Store.apply``. A field has the name and the
meaning of its YAML key (``from_`` stands for ``from``); one that is None is not said, except where :data:`UNSET` is the
default: there None says ``null``. Nothing is checked here but that names are given once: the definitions go to the
validator that reads the files, which reports the same mistakes in the same words.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from numbers import Integral, Real
from types import ModuleType
from typing import Any, Final, Literal, TypeVar, Union

from .errors import InvalidInput

__all__ = [
    "UNSET",
    "Aggregate",
    "Column",
    "Constant",
    "Definitions",
    "Duration",
    "Entity",
    "FeatureReference",
    "FeatureService",
    "FeatureView",
    "FreshnessSlo",
    "Function",
    "LatestFeature",
    "Population",
    "RequestFeature",
    "RequestView",
    "ServiceSlo",
    "Source",
    "Table",
    "Ttl",
    "Unset",
]


class Unset(enum.Enum):
    """The type of :data:`UNSET`.

    >>> LatestFeature().default, LatestFeature(default=None).default
    (UNSET, None)
    """

    UNSET = "unset"

    def __repr__(self) -> str:
        return self.value.upper()


UNSET: Final = Unset.UNSET
"""Not said, where None is a thing to say."""

Duration = Union[str, timedelta]
"""A text such as ``"15m"``, ``"1h30m"`` or ``"250ms"``, or a timedelta."""

Constant = Union[
    None, bool, int, float, str, bytes, Decimal, date, datetime, Sequence["Constant"], Mapping[str, "Constant"]
]
"""A constant of the feature's type; None is ``null``. A datetime needs a time zone."""

Function = Literal[
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "variance",
    "stddev",
    "first",
    "last",
    "first_n",
    "last_n",
    "count_distinct",
    "approx_count_distinct",
    "approx_quantile",
    "top_n",
    "value_counts",
    "seconds_since_last",
]
"""An aggregate function; docs/definitions.md says what each gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Described:
    """What every object may say of itself."""

    description: str | None = None
    """What it is."""
    owner: str | None = None
    """Who answers for it."""
    tags: Mapping[str, str] | None = None
    """Free labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Named(_Described):
    """An object that others refer to. Wherever it is referred to, its name will do as well."""

    name: str
    """Lower case letters, digits and ``_``; unique among its kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entity(_Named):
    """A thing that features describe: a user, an airport.

    >>> Entity(name="origin_carrier", keys={"origin": "string", "carrier": "string"}).name
    'origin_carrier'
    """

    keys: Mapping[str, str]
    """Name and type of each key, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table whose name does not tell its format; elsewhere its path will do.

    >>> Table(path="s3://bucket/flights/", format="delta").format
    'delta'
    """

    path: str
    """A path or glob below the project, an absolute path, or an object-store URL."""
    format: Literal["parquet", "csv", "delta"] | None = None
    """Told from the name when absent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a source, or a field of a request, with more to say than its type; elsewhere its type will do.

    >>> columns = {"user_id": "int64!", "email": Column(type="string", pii=True, from_="EMail")}
    """

    type: str
    """Its type, such as ``float64`` or ``list<string>``; with ``!`` it is required."""
    required: bool | None = None
    """True: a row without it is refused."""
    pii: bool | None = None
    """True: personal data. It is kept out of logs, and a service that shows it needs ``readers``."""
    from_: str | None = None
    """Its name in the table, when that differs (``from`` in YAML)."""
    description: str | None = None
    """What it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kafka:
    """A topic of Kafka: one message, one event."""

    topic: str
    """Its name."""
    brokers: str | Sequence[str] | None = None
    """``host:port``, one or several; ``kafka.brokers`` of springhouse.yaml when absent."""
    format: Literal["json", "avro", "protobuf"] | None = None
    """What a message's value is: an object with the source's columns (``json``), or a message with fields of their names."""
    schema: str | None = None
    """The schema of ``avro`` or ``protobuf``, as text; when absent, the registry ``kafka.registry_url`` has it."""
    message: str | None = None
    """The full name of the ``protobuf`` message, where ``schema`` has several."""
    start: str | Mapping[int, int] | None = None
    """Where reading begins the first time: ``earliest``, ``latest``, a moment, or the first offset of each partition."""
    isolation: Literal["read_committed", "read_uncommitted"] | None = None
    """Whether messages of aborted transactions are left out."""
    key: str | None = None
    """The column that gets the message's key."""
    headers: Mapping[str, str] | None = None
    """Columns that get headers: column to header."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A stream that is read: ``kafka`` or ``ndjson``."""

    kafka: Kafka | None = None
    """A topic of Kafka."""
    ndjson: str | None = None
    """A file that grows: one line, one event, a JSON object with the source's columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source(_Named):
    """Where events or rows come from: a ``table`` read in place, or a ``stream`` with an optional ``history`` table.

    >>> departed = Source(
    ...     name="departed",
    ...     stream="push",
    ...     history="data/departed/*.parquet",
    ...     event_time="departed_at",
    ...     event_id="flight_id",
    ...     columns={"departed_at": "timestamp!", "flight_id": "string!", "origin": "string!", "dep_delay": "float64"},
    ... )
    """

    event_time: str
    """The timestamp column that says when it happened. Need not be repeated under ``columns``."""
    columns: Mapping[str, Column | str]
    """Its columns, each a type or a :class:`Column`."""
    table: Table | str | None = None
    """A table read in place: a path, glob or URL, or a :class:`Table`."""
    stream: Stream | Literal["push"] | None = None
    """``"push"``: events arrive over HTTP; or a :class:`Stream` that is read."""
    history: Table | str | None = None
    """A table of the same events from before the stream began."""
    known_at: str | None = None
    """The timestamp column that says when the store could first have used a row."""
    delay: Duration | None = None
    """Instead of ``known_at``: a row can be used this long after its event time. Zero when absent."""
    where: str | None = None
    """Row-level SQL: rows where it is not true are left out."""
    derived: Mapping[str, str] | None = None
    """Row-level SQL: further columns, each a name and an expression; a later one may use an earlier one."""
    sequence: str | None = None
    """An int64 column that orders rows of equal event time and known_at; else their place in the table does."""
    event_id: str | None = None
    """A column that identifies the event: rows of one id count once, across history and stream."""
    op: str | None = None
    """A string column that says what a row does (``insert``, ``update_before``, ``update_after``, ``delete``): rows can then take earlier
    ones of the same content back."""
    time_zone: str | None = None
    """The zone of timestamps that carry none, such as ``America/New_York``; without it they are refused."""
    max_clock_skew: Duration | None = None
    """How far an event time may lie after its arrival and be clamped to it rather than refused; 5s when absent."""
    max_event_age: Duration | None = None
    """How long before its arrival an event of a stream may have happened rather than be refused; 40 years when absent."""


@dataclass(frozen=True, slots=True)
class Population:
    """A default taken from the history by ``springhouse statistics``, and ``null`` until then.

    >>> Population("median")
    Population(population='median')
    """

    population: Literal["mean", "median", "mode"]
    """Which statistic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatestFeature(_Described):
    """A latest value with more to say than its column.

    >>> features = {"temp": None, "gust": "wind_gust", "precip": LatestFeature(default=0.0)}
    """

    column: str | None = None
    """The column it shows; the one of its name when absent."""
    default: Constant | Population | Unset = UNSET
    """What the caller gets when there is no fresh value."""
    pii: bool | None = None
    """True: personal data, also when its column is not marked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregate(_Described):
    """Aggregates of one column over windows.

    One function makes features named NAME_WINDOW, such as ``late_1h``; a list of functions NAME_FUNCTION_WINDOW, such
    as ``delay_mean_24h``.

    >>> aggregate = {
    ...     "late": Aggregate(fn="count", where="dep_delay >= 30", windows=["1h", "24h"], default=0),
    ...     "delay": Aggregate(fn=["mean", "max"], column="dep_delay", windows=["24h", "7d", "lifetime"]),
    ... }
    """

    fn: Function | Sequence[Function]
    """The function, or a list of functions."""
    windows: Sequence[Duration]
    """Lengths, or ``"lifetime"``. The text is part of the feature's name; a timedelta is written in the largest units
    that are exact, so that 24 hours are ``1d``: write ``"24h"`` where the name is to say so."""
    column: str | None = None
    """The column aggregated; absent for a count of events and for ``seconds_since_last``."""
    hop: Duration | None = None
    """The step of the window's tail, or ``"exact"``. When absent: the longest of 1s 5s 10s 30s 1m 5m 10m 30m 1h 6h 12h
    1d that is at most a 60th of the window."""
    where: str | None = None
    """SQL over the row: events where it is not true don't count."""
    group_by: str | None = None
    """A second column: the feature is a map from each of its values to the aggregate."""
    n: int | None = None
    """How many values: ``first_n``, ``last_n``, ``top_n``."""
    q: float | None = None
    """The quantile, 0 to 1: ``approx_quantile``."""
    alpha: float | None = None
    """The relative error, 0.001 to 0.1, 0.01 when absent: ``approx_quantile``."""
    precision: int | None = None
    """4 to 16, 12 when absent; 2^precision registers: ``approx_count_distinct``."""
    cap: int | None = None
    """The most distinct values counted exactly: ``count_distinct``, ``top_n``, ``value_counts``."""
    over_cap: None | Unset = UNSET
    """What the feature is beyond ``cap``; only None can be said, and must be, where there is a cap."""
    default: Constant | Population | Unset = UNSET
    """What the caller gets when there is no fresh value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ttl:
    """How old a value may be.

    >>> Ttl(soft="15m", hard=timedelta(hours=6)).soft
    '15m'
    """

    hard: Duration
    """Older values are replaced by the default."""
    soft: Duration | None = None
    """Older values are served, as stale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FreshnessSlo:
    """Targets of a feature view for the age of its values.

    >>> FreshnessSlo(p95="5s", p99="15s").p95
    '5s'
    """

    p95: Duration
    """95 of 100 values are younger than this."""
    p99: Duration
    """99 of 100 values are younger than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSlo:
    """What a feature service promises.

    >>> ServiceSlo(latency_p99="10ms", availability="99.9%").availability
    '99.9%'
    """

    latency_p99: Duration | None = None
    """Latency at p99."""
    availability: str | None = None
    """A percentage such as ``99.9%``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _View(_Named):
    """A named set of features, of which ``view["feature"]`` is one."""

    def __getitem__(self, feature: str) -> FeatureReference:
        # Without this check Python would take a view for a sequence without end.
        if not isinstance(feature, str):
            raise TypeError(f"a feature is given by its name, not by a {type(feature).__name__}")
        return FeatureReference(view=self, feature=feature)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureReference:
    """One feature of a view, as ``view["feature"]`` gives it; the text ``"view:feature"`` says the same.

    >>> view = FeatureView(name="origin_weather", entity="origin", source="weather", ttl="3h", features=["temp"])
    >>> str(view["temp"])
    'origin_weather:temp'
    """

    view: _View
    """A feature view or a request view."""
    feature: str
    """The feature's name; that of an aggregate has function and window in it."""

    def __str__(self) -> str:
        return f"{self.view.name}:{self.feature}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureView(_View):
    """Features of one entity from one source: ``features`` (latest values) or ``aggregate`` (windows).

    >>> view = FeatureView(
    ...     name="origin_departures",
    ...     entity="origin",
    ...     source="departed",
    ...     ttl=Ttl(soft="15m", hard="6h"),
    ...     tier="realtime",
    ...     aggregate={"origin_late": Aggregate(fn="count", where="dep_delay >= 30", windows=["1h"], default=0)},
    ... )
    >>> str(view["origin_late_1h"])
    'origin_departures:origin_late_1h'
    """

    entity: Entity | str
    """The entity described."""
    source: Source | str
    """The source read."""
    ttl: Ttl | Duration
    """How old a value may be: a :class:`Ttl`, or just the hard limit."""
    version: int | None = None
    """1 when absent. A breaking change of a live view needs a higher one."""
    keys: Mapping[str, str] | None = None
    """The source's column for each key of the entity, where the names differ, such as ``{"airport": "origin"}``."""
    where: str | None = None
    """Row-level SQL: rows where it is not true are left out."""
    derived: Mapping[str, str] | None = None
    """Row-level SQL: further columns, each a name and an expression."""
    features: Sequence[str] | Mapping[str, LatestFeature | str | None] | None = None
    """Latest values: a list of columns, or a mapping from feature names to columns (None: the one of that name)."""
    aggregate: Mapping[str, Aggregate] | None = None
    """Aggregates over windows, by name."""
    tier: Literal["realtime", "nearline", "batch"] | None = None
    """How fresh it is meant to be: realtime (5s at p95, 15s at p99), nearline (5m, 15m) or batch (24h, 48h)."""
    slo: FreshnessSlo | None = None
    """Instead of ``tier``: own targets for the age of values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestFeature(_Described):
    """A request-time feature with more to say than its expression.

    >>> RequestFeature(sql="distance > 2000 AND delay > 10", default=False).default
    False
    """

    sql: str
    """The expression."""
    default: Constant | Unset = UNSET
    """What the caller gets when the expression gives null: a constant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestView(_View):
    """Features computed at request time from other features and fields of the request.

    >>> request = RequestView(
    ...     name="flight_request",
    ...     fields={"distance": "float64!"},
    ...     inputs={"delay": "origin_departures:origin_delay_mean_1h"},
    ...     features={"far": "distance > 2000", "late": RequestFeature(sql="far AND delay > 10", default=False)},
    ... )
    """

    features: Mapping[str, RequestFeature | str]
    """Features by name: SQL over inputs and fields, or a :class:`RequestFeature`; a later one may use an earlier one.
    ``now`` is the moment of the request."""
    version: int | None = None
    """1 when absent. A breaking change of a live view needs a higher one."""
    fields: Mapping[str, Column | str] | None = None
    """What the request brings, each a type or a :class:`Column`; ``!`` is required."""
    inputs: Sequence[FeatureReference | str] | Mapping[str, FeatureReference | str] | None = None
    """Features used: a list, or a mapping from the names they have in the expressions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureService(_Named):
    """The features that one model asks for, with what to do when they are not fresh.

    >>> service = FeatureService(
    ...     name="late_departure",
    ...     features=["origin_departures", "origin_weather:temp"],
    ...     on_stale="serve",
    ...     readers=["role:delay-model"],
    ...     slo=ServiceSlo(latency_p99="10ms", availability="99.9%"),
    ... )
    """

    features: Sequence[FeatureView | RequestView | FeatureReference | str]
    """Views (all their features) and single features, in order."""
    on_stale: Literal["serve", "default", "fail"] | None = None
    """A stale value: serve it (and say so), serve the default, or fail the request."""
    on_unavailable: Literal["default", "last_known", "fail"] | None = None
    """The store does not answer in time: default, last known value, or fail."""
    on_missing: Literal["default", "fail"] | None = None
    """A value never seen: default or fail."""
    on_expired: Literal["default", "fail"] | None = None
    """A value older than the hard ttl: default or fail."""
    readers: Sequence[str] | None = None
    """Who may read it, such as ``role:delay-model``; everyone when absent."""
    slo: ServiceSlo | None = None
    """What is promised."""


_NamedT = TypeVar("_NamedT", bound=_Named)


@dataclass(frozen=True, kw_only=True, slots=True)
class Definitions:
    """Definitions of a project: exactly the objects given; see :meth:`collect` for one that follows references.

    Raises :class:`~springhouse.errors.InvalidInput` when a name is given twice in one section.

    >>> Definitions(entities=[Entity(name="user", keys={"user": "int64"})]).to_dict()
    {'entities': {'user': {'keys': {'user': 'int64'}}}}
    """

    entities: Sequence[Entity] = ()
    """Things that features describe."""
    sources: Sequence[Source] = ()
    """Where events or rows come from."""
    feature_views: Sequence[FeatureView] = ()
    """Features of one entity from one source."""
    request_views: Sequence[RequestView] = ()
    """Features computed at request time."""
    feature_services: Sequence[FeatureService] = ()
    """The features that one model asks for."""

    def __post_init__(self) -> None:
        def freeze(section: str, kind: type[_NamedT], objects: Iterable[_NamedT]) -> None:
            object.__setattr__(self, section, _checked(section, kind, objects))

        freeze("entities", Entity, self.entities)
        freeze("sources", Source, self.sources)
        freeze("feature_views", FeatureView, self.feature_views)
        freeze("request_views", RequestView, self.request_views)
        freeze("feature_services", FeatureService, self.feature_services)

    @classmethod
    def collect(cls, *objects: _Named | Definitions) -> Definitions:
        """These objects (and those in given Definitions), and what they refer to as objects rather than by name.

        An object met more than once counts once.

        Raises :class:`~springhouse.errors.InvalidInput` for two objects of one kind and name, and for what is no
        definition.

        >>> user = Entity(name="user", keys={"user": "int64"})
        >>> view = FeatureView(name="profile", entity=user, source="profiles", ttl="7d", features=["country"])
        >>> [entity.name for entity in Definitions.collect(view).entities]
        ['user']
        """
        found: dict[int, _Named] = {}

        def add(given: _Named) -> None:
            if id(given) not in found:
                found[id(given)] = given
                for field in dataclasses.fields(given):
                    for referred in _named_within(getattr(given, field.name)):
                        add(referred)

        for given in objects:
            if isinstance(given, Definitions):
                for field in dataclasses.fields(given):
                    for held in getattr(given, field.name):
                        add(held)
            elif isinstance(given, _Named):
                add(given)
            else:
                raise InvalidInput(
                    "invalid_argument",
                    f"a {type(given).__name__} is no definition",
                    "give entities, sources, views, services or Definitions",
                )
        return cls(
            entities=[each for each in found.values() if isinstance(each, Entity)],
            sources=[each for each in found.values() if isinstance(each, Source)],
            feature_views=[each for each in found.values() if isinstance(each, FeatureView)],
            request_views=[each for each in found.values() if isinstance(each, RequestView)],
            feature_services=[each for each in found.values() if isinstance(each, FeatureService)],
        )

    @classmethod
    def of(cls, *modules: ModuleType) -> Definitions:
        """What these modules define at their top level, and what that refers to.

        Names that begin with ``_`` are passed over, unless what they hold is referred to.

        Raises what :meth:`collect` raises.

        >>> module = ModuleType("features")
        >>> module.user = Entity(name="user", keys={"user": "int64"})
        >>> module._draft = Entity(name="session", keys={"session": "string"})
        >>> [entity.name for entity in Definitions.of(module).entities]
        ['user']
        """
        public = [value for module in modules for name, value in vars(module).items() if not name.startswith("_")]
        return cls.collect(*(value for value in public if isinstance(value, (_Named, Definitions))))

    def to_dict(self) -> dict[str, Any]:
        """What the YAML says, as a YAML parser gives it: dicts, lists, texts, numbers, booleans and None.

        Durations, instants, dates, decimals and bytes (in base64) are texts. What is not said is absent.

        Raises :class:`~springhouse.errors.InvalidInput` for a value of a type that no definition can say.

        >>> profile = FeatureView(
        ...     name="profile", entity="user", source="profiles", ttl=timedelta(days=7), features={"country": None}
        ... )
        >>> Definitions(feature_views=[profile]).to_dict()["feature_views"]["profile"]
        {'entity': 'user', 'source': 'profiles', 'ttl': '7d', 'features': {'country': None}}
        """
        sections = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            section: {each.name: _section(each, f"{section}.{each.name}") for each in objects}
            for section, objects in sections.items()
            if objects
        }

    def to_yaml(self) -> str:
        """A definition file that says the same; also a way back from Python to files.

        Raises what :meth:`to_dict` raises.

        >>> print(Definitions(entities=[Entity(name="user", owner="Ann: \\"A\\"", keys={"user": "int64"})]).to_yaml())
        entities:
          user:
            owner: "Ann: \\"A\\""
            keys: {user: int64}
        <BLANKLINE>
        """
        return "".join(f"{line}\n" for line in _block(self.to_dict(), 0)) or "{}\n"


def _checked(section: str, kind: type[_NamedT], objects: Iterable[_NamedT]) -> tuple[_NamedT, ...]:
    """The objects of one section; a mapping would silently keep one of two that share a name."""
    objects = tuple(objects)
    names: set[str] = set()
    for each in objects:
        if not isinstance(each, kind):
            raise InvalidInput("invalid_argument", f"`{section}` takes {kind.__name__}, not {type(each).__name__}")
        if each.name in names:
            raise InvalidInput(
                "duplicate_key",
                f"`{each.name}` is given twice in `{section}`; expected each name once",
                "rename one, or leave one out",
            )
        names.add(each.name)
    return objects


def _named_within(value: object) -> Iterator[_Named]:
    """The objects that a field's value refers to."""
    if isinstance(value, _Named):
        yield value
    elif isinstance(value, FeatureReference):
        yield value.view
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _named_within(item)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for item in value:
            yield from _named_within(item)


# From objects to the tree that a YAML parser would give.


def _section(given: Any, path: str) -> dict[str, Any]:
    """The keys that a dataclass says; `path` is for errors."""
    said: dict[str, Any] = {}
    for field in dataclasses.fields(given):
        value = getattr(given, field.name)
        key = field.name.removesuffix("_")
        # The name stands above, as the key of the whole. A default is None or UNSET: either way "not said".
        if value is not field.default and not (isinstance(given, _Named) and key == "name"):
            said[key] = _tree(value, f"{path}.{key}")
    return said


def _tree(value: Any, path: str) -> Any:
    """Any value; `path` is for errors."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # A plain text also of an enum's member.
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, _Named):
        return value.name
    if isinstance(value, FeatureReference):
        return str(value)
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {_tree(key, path): _tree(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_tree(item, f"{path}.{at}") for at, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and type(value).__module__ == __name__:
        return _section(value, path)
    raise InvalidInput("invalid_argument", f"`{path}` can't be a {type(value).__module__}.{type(value).__qualname__}")


def _duration(length: timedelta) -> str:
    """As the program itself writes durations: the largest units that are exact.

    >>> _duration(timedelta(hours=36)), _duration(timedelta(milliseconds=250)), _duration(timedelta(0))
    ('1d12h', '250ms', '0s')
    """
    micros = length // timedelta(microseconds=1)
    text, rest = "-" if micros < 0 else "", abs(micros)
    for unit, name in (
        (86_400_000_000, "d"),
        (3_600_000_000, "h"),
        (60_000_000, "m"),
        (1_000_000, "s"),
        (1_000, "ms"),
        (1, "us"),
    ):
        count, rest = divmod(rest, unit)
        text += f"{count}{name}" if count else ""
    return text or "0s"


# From the tree to YAML that every parser, 1.1 or 1.2, reads as the same tree.

# A longer list or mapping goes on lines of its own.
_LINE_CHARACTERS_MAX = 110
# Sections and objects always have lines of their own.
_BLOCK_LEVELS_MIN = 2
# Names are readable without quotes; everything else gets them, be it needed or not.
_PLAIN = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
# Names that some parser takes for a boolean, a null or a number.
_TYPED_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity"})
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}


def _block(tree: Any, level: int) -> Iterator[str]:
    """The lines of a mapping, or of a list that is too long for one."""
    pad = "  " * level
    if isinstance(tree, dict):
        entries = [(f"{_flow(key)}:", item) for key, item in tree.items()]
    else:
        entries = [("-", item) for item in tree]
    for head, item in entries:
        line = f"{pad}{head} {_flow(item)}"
        fits = len(line) <= _LINE_CHARACTERS_MAX and (level >= _BLOCK_LEVELS_MIN or not isinstance(item, dict))
        if fits or not item or not isinstance(item, (dict, list)):
            yield line
        else:
            yield f"{pad}{head}"
            yield from _block(item, level + 1)


def _flow(tree: Any) -> str:
    """Anything on one line."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_flow, tree)) + "]"
    if tree is None:
        return "null"
    if isinstance(tree, bool):
        return "true" if tree else "false"
    if isinstance(tree, int):
        return str(tree)
    if isinstance(tree, float):
        return _float(tree)
    plain = _PLAIN.fullmatch(tree) is not None and tree not in _TYPED_WORDS
    return tree if plain else _quoted(tree)


def _float(number: float) -> str:
    """As YAML 1.1 wants it too: with a point, so that an exponent is not taken for part of a text.

    >>> [_float(number) for number in (0.1, 1e22, -1e-7, float("inf"), float("nan"))]
    ['0.1', '1.0e+22', '-1.0e-07', '.inf', '.nan']
    """
    text = repr(number)
    if text.endswith(("inf", "nan")):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    digits, exponent, power = text.partition("e")
    return (digits if "." in digits else f"{digits}.0") + exponent + power


def _quoted(text: str) -> str:
    r"""Between double quotes; what can't be seen, or ends a line somewhere, is escaped by its number.

    >>> print(_quoted('say "é"\n\x85\ufeff'))
    "say \"é\"\n\x85\ufeff"
    """

    def escaped(character: str) -> str:
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character.isprintable():
            return character
        code = ord(character)
        return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

    return '"' + "".join(map(escaped, text)) + '"'
