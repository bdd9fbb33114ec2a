"""A feature store: of a project in this process (:func:`open`), or of a running server (:func:`connect`). One API."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote, urlencode

from . import _native
from .display import ProgressBar
from .errors import InvalidInput, RowsRefused, SpringhouseError, from_answer, from_native
from .features import Features
from .table import columns_of, is_table, json_text
from .training import TrainingSet
from .transport import ARROW_STREAM, HttpTransport, InProcessTransport, Transport

__all__ = ["Catalog", "Plan", "PushOutcome", "Status", "Store", "connect", "open"]

#: How often a running job is asked how far it is, seconds.
_JOB_POLL_SECONDS = 0.02
#: Where the schema of a training set that came over HTTP carries its manifest.
_MANIFEST_KEY = "springhouse.manifest"
#: Rows sent in one push; larger pushes are sent in parts.
PUSH_ROWS_MAX = 50_000
PART_ROWS = 2_000_000
"""Labels of a part of a training set that is resumable."""


@dataclass(frozen=True)
class PushOutcome:
    """What became of pushed rows.

    ``exceptions`` lists the rows that were not accepted, each a dict with ``row`` (position in what was pushed),
    ``outcome`` (``duplicate`` or ``refused``), ``code`` and ``reason``. ``end_offset`` is the log offset after the last row.
    """

    accepted: int
    duplicates: int
    refused: int
    exceptions: list[dict[str, Any]]
    end_offset: int | None

    @property
    def rows(self) -> int:
        """Rows pushed."""
        return self.accepted + self.duplicates + self.refused


@dataclass(frozen=True)
class Plan:
    """What applying definitions changes. True in a condition when something does."""

    changes: list[dict[str, Any]]
    breaking: int
    text: str
    definition_hash: str
    is_empty: bool
    #: The snapshot that was compared with; None before the first.
    against: int | None = None
    #: The new snapshot, when it was applied.
    snapshot: int | None = None

    def __bool__(self) -> bool:
        return not self.is_empty

    def __str__(self) -> str:
        return self.text.rstrip()

    @staticmethod
    def _of(body: Mapping[str, Any]) -> Plan:
        return Plan(
            changes=list(body["changes"]),
            breaking=body["breaking"],
            text=body["text"],
            definition_hash=body["definition_hash"],
            is_empty=body["is_empty"],
            against=body.get("against"),
            snapshot=body.get("applied"),
        )


class Status(dict[str, Any]):
    """How far everything is: the body of ``GET /v1/status``, shown as a table in notebooks."""

    def _repr_html_(self) -> str:
        from .display import status_html

        return status_html(self)


@dataclass(frozen=True)
class Catalog:
    """What is applied: a list of dicts, one per service or view, shown as a table in notebooks."""

    kind: Literal["services", "views"]
    body: Mapping[str, Any] = field(repr=False)

    @property
    def names(self) -> list[str]:
        """The names."""
        return [entry["name"] for entry in self.entries]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries."""
        return list(self.body[self.kind])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> dict[str, Any]:
        for entry in self.entries:
            if entry["name"] == name:
                return entry
        raise KeyError(name)

    def _repr_html_(self) -> str:
        from .display import services_html, views_html

        return services_html(self.body) if self.kind == "services" else views_html(self.body)


def open(path: str | Path = ".") -> Store:
    """The store of the project in a folder, in this process; no server is needed.

    While a `springhouse serve` (or another process that offers an address) has the project open, the store talks to that
    server instead, because one process at a time may write.

    Raises :class:`NotFound` when the folder is no project, :class:`Conflict` when another process holds it and offers no
    address.
    """
    try:
        project = _project(path)
        address = project.running_server()
    except _native.NativeError as error:
        raise from_native(error) from None
    if address is not None:
        return Store(HttpTransport(f"http://{address}"), project)
    return Store(InProcessTransport(project), project)


#: The open projects of this process, by folder: a second store of one shares it, for it has one writer.
_PROJECTS: weakref.WeakValueDictionary[str, _native.NativeProject] = weakref.WeakValueDictionary()
_PROJECTS_LOCK = threading.Lock()


def _project(path: str | Path) -> _native.NativeProject:
    folder = os.path.realpath(path)
    with _PROJECTS_LOCK:
        project = _PROJECTS.get(folder)
        if project is None or project.is_forked():
            project = _native.NativeProject(folder)
            _PROJECTS[folder] = project
        return project


def connect(url: str, *, token: str | None = None, timeout: float = 30.0) -> Store:
    """The store behind a running server, such as ``http://127.0.0.1:8765``.

    ``token`` is sent as a bearer token. ``timeout`` is for one request, in seconds. Connections are kept and shared by
    threads; a request that fails because a kept connection was closed is sent again on a new one.

    Nothing is sent yet: an unreachable server is told by the first call, as :class:`Unavailable`.
    """
    return Store(HttpTransport(url, token=token, timeout=timeout), None)


class Store:
    """Features to train with, features to serve, events to push. Made by :func:`open` or :func:`connect`.

    Safe to share between threads. Close it (or use it as a context manager) to let others open the project.
    """

    def __init__(self, transport: Transport, project: _native.NativeProject | None) -> None:
        self._transport = transport
        self._project = project
        # Also at the end of the interpreter, so that a script that forgets to close leaves nothing to recover.
        self._finalizer = weakref.finalize(self, _close_quietly, transport)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flushes and closes. Safe to call twice; a later call of another method opens again."""
        self._transport.close()

    def __repr__(self) -> str:
        return f"Store({self._transport})"

    # Definitions.

    def validate(self, definitions: Any = None) -> list[dict[str, Any]]:
        """Checks the project's files, or ``definitions`` written in Python; returns the warnings.

        Raises :class:`DefinitionError` with every mistake, each with file, line and column.
        """
        files = self._files(definitions)
        try:
            checked = json.loads(_native.validate_files(files))
        except _native.NativeError as error:
            raise from_native(error) from None
        return list(checked["mistakes"])

    def plan(self, definitions: Any = None) -> Plan:
        """What applying the project's files (or ``definitions``) would change; changes nothing."""
        return self._plan(definitions, apply=False, message="", by="", allow_breaking=False)

    def apply(
        self, definitions: Any = None, *, message: str = "", by: str | None = None, allow_breaking: bool = False
    ) -> Plan:
        """Applies the project's files (or ``definitions``): all of it or nothing. The store takes them up at once.

        Raises :class:`Conflict` (``breaking_changes``) when a change would break callers, unless ``allow_breaking``; a
        change that what is stored would not survive is refused all the same.
        """
        return self._plan(
            definitions, apply=True, message=message, by=by or getpass.getuser(), allow_breaking=allow_breaking
        )

    def _plan(self, definitions: Any, *, apply: bool, message: str, by: str, allow_breaking: bool) -> Plan:
        files = self._files(definitions)
        if self._project is not None and isinstance(self._transport, InProcessTransport):
            try:
                return Plan._of(json.loads(self._project.plan(files, apply, message, by, allow_breaking)))
            except _native.NativeError as error:
                raise from_native(error) from None
        body: dict[str, Any] = {"files": dict(files)}
        if apply:
            body |= {"message": message, "by": by, "allow_breaking": allow_breaking}
        return Plan._of(self._json("POST", "/v1/admin/apply" if apply else "/v1/admin/plan", body))

    def _files(self, definitions: Any) -> list[tuple[str, str]]:
        if definitions is not None:
            to_yaml = getattr(definitions, "to_yaml", None)
            if to_yaml is None:
                raise InvalidInput(
                    "invalid_argument",
                    f"definitions are a springhouse.Definitions, not a {type(definitions).__name__}",
                    "collect them with springhouse.Definitions.collect(...)",
                )
            # Lines in mistakes are those of the text that was made of the definitions.
            return [("definitions.to_yaml()", to_yaml())]
        if self._project is None:
            raise InvalidInput(
                "invalid_argument",
                "a connected store has no definition files of its own",
                "give `definitions`, or open the project's folder with springhouse.open(path)",
            )
        try:
            return self._project.definition_files()
        except _native.NativeError as error:
            raise from_native(error) from None

    def services(self) -> Catalog:
        """The feature services that are applied."""
        return Catalog("services", self._json("GET", "/v1/services"))

    def views(self) -> Catalog:
        """The feature views that are applied, with their features."""
        return Catalog("views", self._json("GET", "/v1/views"))

    # Serving.

    def features(
        self,
        features: str | Sequence[str],
        entities: Any,
        *,
        request: Any = None,
        max_age: str | timedelta | None = None,
        metadata: bool = True,
    ) -> Features:
        """Features of entities, now.

        ``features``: a feature service's name, or a list of ``"view"`` and ``"view:feature"``. ``entities`` and
        ``request`` (request fields): one row as a dict of scalars, columns as a dict of sequences, a list of row dicts,
        or a table (pandas, polars, pyarrow, anything with ``__arrow_c_stream__``). ``max_age``: older values count as
        stale. ``metadata=False`` leaves statuses and ages out and is faster; values then come as JSON has them.

        Raises :class:`InvalidInput`, :class:`NotFound`; :class:`Unavailable` where the service's policy is to fail.
        """
        body = _features_body(features, entities, request, max_age, metadata)
        return Features(self._json_text("POST", "/v1/features", body))

    async def features_async(
        self,
        features: str | Sequence[str],
        entities: Any,
        *,
        request: Any = None,
        max_age: str | timedelta | None = None,
        metadata: bool = True,
    ) -> Features:
        """As :meth:`features`, without holding up the event loop: the call runs in a thread of the loop's executor."""
        body = _features_body(features, entities, request, max_age, metadata)
        return Features(await asyncio.to_thread(self._json_text, "POST", "/v1/features", body))

    def explain(self, view: str, key: Mapping[str, Any]) -> dict[str, Any]:
        """The tiles, rows and events inside a view's numbers for one entity, now."""
        query = [("view", view)] + [(f"key.{name}", _query_text(value)) for name, value in key.items()]
        return dict(self._json("GET", f"/v1/explain?{urlencode(query, quote_via=quote)}"))

    # Events.

    def push(
        self,
        source: str,
        rows: Any,
        *,
        idempotency_key: str | None = None,
        backfill: bool = False,
        dry_run: bool = False,
        on_refused: Literal["raise", "return"] = "raise",
    ) -> PushOutcome:
        """Pushes events; returns when they are durable and served.

        ``rows``: dicts (one or a list), or a table. Rows with an id that was seen count once; with ``idempotency_key`` the
        same call can be made again after any failure and changes nothing. ``backfill``: old events, known by the source's
        table rule instead of from now on. ``dry_run``: only says what would become of the
        rows; it can't tell duplicates. Over :data:`PUSH_ROWS_MAX` rows are sent in parts.

        Raises :class:`RowsRefused` when a row was refused (the others are taken) unless ``on_refused="return"``.
        """
        parts = [_push_part(part) for part in _push_parts(rows)]
        outcomes = []
        options = [name for name, wanted in (("backfill", backfill), ("dry_run", dry_run)) if wanted]
        query = "&".join(f"{name}=true" for name in options)
        path = f"/v1/push/{quote(source, safe='')}" + (f"?{query}" if query else "")
        for number, (body, kind, size) in enumerate(parts):
            headers = {"content-type": kind}
            if idempotency_key is not None:
                headers["idempotency-key"] = idempotency_key if len(parts) == 1 else f"{idempotency_key}/{number}"
            outcomes.append((json.loads(self._call("POST", path, body, headers)), size))
        outcome = _joined(outcomes)
        if outcome.refused and on_refused == "raise":
            first = next(e for e in outcome.exceptions if e["outcome"] == "refused")
            raise RowsRefused(
                "rows_refused",
                f"{outcome.refused} of {outcome.rows} rows were refused; row {first['row']}: "
                f"[{first['code']}] {first['reason']}",
                "`error.outcome.exceptions` has every one; the other rows were taken",
                outcome,
            )
        return outcome

    # Training sets.

    def training_set(
        self,
        service: str | Sequence[str] | None = None,
        labels: Any = None,
        *,
        features: Sequence[str] = (),
        labels_sql: str | None = None,
        at: str | None = None,
        availability: Literal["known", "event"] = "known",
        time_zone: str | None = None,
        sample: int | str | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        output_format: Literal["parquet", "arrow", "arrow-stream", "csv"] | None = None,
        memory_mb: int | None = None,
        manifest: str | Path | None = None,
        resumable: bool | int = False,
        progress: bool = True,
    ) -> TrainingSet:
        """The features of a service for every label row, as serving would have answered at its moment.

        ``service``: a feature service, several of them, or None with ``features``. ``features``: only these, in this
        order: ``"feature"``, ``"view"`` or ``"view:feature"``. ``labels``: a table (pandas, polars, pyarrow, anything with
        ``__arrow_c_stream__``), taken without a copy, or the path of a Parquet, CSV or Arrow file, of a folder, a glob or a
        Delta table, with the entity keys, the request fields, and the moment asked for in column ``at``
        (``event_timestamp`` or the only timestamp column when left out). ``labels_sql`` instead: ``SELECT ... FROM 'path'
        WHERE ...`` over one such file. ``time_zone``: of moments that carry none. ``sample``: so many of the labels
        (``1000``) or about this share (``"1%"``), the same every time; another ``seed`` takes others. ``out``: write it to
        this file in the format of its extension (or ``output_format``), with its manifest beside it, instead of into
        memory. Ctrl-C stops it and leaves nothing behind.

        ``manifest`` instead of all that says what is asked: the manifest of a training set, which is made again from the
        definitions, labels, files and table versions that it names. ``resumable``, with ``out``: finished parts (of so many labels, or two
        million) are kept in ``OUT.parts`` until the output is complete, and the same call takes up a run that was killed.

        Raises :class:`InvalidInput` for labels that don't fit, :class:`NotFound` for an unknown service.
        """
        if manifest is not None:
            given = (service, labels, labels_sql, at, time_zone, sample)
            if any(value is not None for value in given) or features or availability != "known":
                raise InvalidInput("invalid_argument", "a manifest says what is asked", "give `manifest` and `out` alone")
            asked = _asked(None, (), "", None, None, "known", None, None, 0, memory_mb)
        else:
            asked = _asked(service, features, labels, labels_sql, at, availability, time_zone, sample, seed, memory_mb)
        if isinstance(self._transport, InProcessTransport) and self._project is not None:
            asked["output_format"] = output_format
            asked["manifest"] = None if manifest is None else str(manifest)
            asked["part_rows"] = PART_ROWS if resumable is True else resumable or None
            table = None if labels is None or isinstance(labels, str | Path) else _with_stream(labels)
            try:
                with ProgressBar(progress) as bar:
                    target = None if out is None else str(out)
                    manifest, report, made = _native.training_set(self._project, asked, table, target, bar.update)
            except _native.NativeError as error:
                raise from_native(error) from None
            path = None if out is None else Path(out)
            return TrainingSet(made, json.loads(manifest), path, json.loads(report))
        if manifest is not None or resumable:
            raise InvalidInput(
                "invalid_argument", "`manifest` and `resumable` are for an embedded store", "use `springhouse.open(folder)`"
            )
        return self._training_set_there(asked, labels, out, output_format)

    def training_plan(
        self,
        service: str | Sequence[str] | None,
        labels: Any = None,
        *,
        features: Sequence[str] = (),
        labels_sql: str | None = None,
        at: str | None = None,
        availability: Literal["known", "event"] = "known",
        time_zone: str | None = None,
        sample: int | str | None = None,
        seed: int = 0,
        memory_mb: int | None = None,
    ) -> dict[str, Any]:
        """How :meth:`training_set` would make a training set: what it would read and leave out, which way each view goes.

        An embedded store only.
        """
        if not isinstance(self._transport, InProcessTransport) or self._project is None:
            raise InvalidInput("invalid_argument", "a plan is for an embedded store", "use `springhouse.open(folder)`")
        asked = _asked(service, features, labels, labels_sql, at, availability, time_zone, sample, seed, memory_mb)
        table = None if labels is None or isinstance(labels, str | Path) else _with_stream(labels)
        try:
            return dict(json.loads(_native.training_plan(self._project, asked, table)))
        except _native.NativeError as error:
            raise from_native(error) from None

    def _training_set_there(
        self, asked: Mapping[str, Any], labels: Any, out: str | Path | None, output_format: str | None
    ) -> TrainingSet:
        for name in ("memory_mb", "labels_sql"):
            if asked[name] is not None:
                raise InvalidInput(
                    "invalid_argument",
                    f"`{name}` is for an embedded store",
                    "the server has its own budget and reads no files of yours",
                )
        if not asked["services"]:
            raise InvalidInput("invalid_argument", "a server is asked for a service", "name one, with `features` of it")
        if output_format not in (None, "parquet"):
            raise InvalidInput("invalid_argument", "through a server `out` is Parquet", "convert the table that comes back")
        query = {
            "features": ",".join(asked["features"]) or None,
            "at_column": asked["at_column"],
            "availability": asked["availability"],
            "time_zone": asked["time_zone"],
            "sample": asked["sample"],
            "seed": asked["seed"] or None,
        }
        text = urlencode({name: value for name, value in query.items() if value is not None}, quote_via=quote)
        path = f"/v1/admin/training-sets/{quote(','.join(asked['services']), safe=',')}?{text}"
        answer = self._call("POST", path, _native_bytes(_label_table(labels)), {"content-type": ARROW_STREAM})
        table, manifest = _native.from_stream(answer, _MANIFEST_KEY)
        made = TrainingSet(table, json.loads(manifest or "{}"))
        if out is not None:
            import pyarrow.parquet

            pyarrow.parquet.write_table(made.to_arrow(), out)
            Path(f"{out}.manifest.json").write_text(json.dumps(made.manifest, indent=2) + "\n")
            made.path = Path(out)
        return made

    # Operating.

    def materialize(
        self, views: Sequence[str] | None = None, *, until: datetime | None = None, progress: bool = True
    ) -> list[dict[str, Any]]:
        """Loads what is new in history into the online store; returns per view what was loaded."""
        body: dict[str, Any] = {} if views is None else {"views": list(views)}
        if until is not None:
            body["until"] = _timestamp_text(until)
        return list(self._job("/v1/admin/materialize", body, progress).get("views") or [])

    def rebuild(self, views: Sequence[str] | None = None, *, progress: bool = True) -> list[dict[str, Any]]:
        """Builds views again from history, beside the served ones, and switches when they are complete."""
        body: dict[str, Any] = {} if views is None else {"views": list(views)}
        return list(self._job("/v1/admin/rebuild", body, progress).get("views") or [])

    def verify(
        self, views: Sequence[str] | None = None, *, entities_per_view: int = 100, progress: bool = True
    ) -> dict[str, Any]:
        """Compares online values with history, bit for bit: ``values``, ``entities``, ``difference_count``, ``differences``."""
        body: dict[str, Any] = {"entities_per_view": entities_per_view}
        if views is not None:
            body["views"] = list(views)
        return dict(self._job("/v1/admin/verify", body, progress)["verified"])

    def _job(self, path: str, body: Mapping[str, Any], progress: bool) -> dict[str, Any]:
        job = self._json("POST", path, body)
        with ProgressBar(progress) as bar:
            while job["state"] == "running":
                time.sleep(_JOB_POLL_SECONDS)
                job = self._json("GET", f"/v1/admin/jobs/{job['id']}")
                if step := job.get("progress"):
                    bar.update(step["stage"], step["done"], step["total"])
        if job["state"] == "failed":
            failed = job["error"]
            raise from_native(Exception(failed["code"], failed["message"], failed.get("hint"), None))
        return dict(job)

    def status(self) -> Status:
        """How far every view, the log and the lake are."""
        return Status(self._json("GET", "/v1/status"))

    def dead_letters(self, source: str, *, limit: int = 100) -> list[dict[str, Any]]:
        """Refused rows of a source with their reasons, newest first."""
        body = self._json("GET", f"/v1/dead-letters/{quote(source, safe='')}?limit={limit}")
        return list(body["dead_letters"])

    # The contract.

    def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        status, answer = self._transport.call(method, path, body, headers)
        if not 200 <= status < 300:
            raise from_answer(status, answer)
        return answer

    def _json_text(self, method: str, path: str, body: str) -> Any:
        return json.loads(self._call(method, path, body.encode(), {"content-type": "application/json"}))

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json_text(body).encode()
        return json.loads(self._call(method, path, data, {"content-type": "application/json"}))


def _close_quietly(transport: Transport) -> None:
    # Nobody is there to be told; what was acknowledged is in the log.
    with contextlib.suppress(SpringhouseError):
        transport.close()


def _features_body(
    features: str | Sequence[str], entities: Any, request: Any, max_age: str | timedelta | None, metadata: bool
) -> str:
    body: dict[str, Any] = {"service": features} if isinstance(features, str) else {"features": list(features)}
    body["entities"] = columns_of(entities)
    if request is not None:
        body["request"] = columns_of(request)
    if max_age is not None:
        body["max_age"] = f"{round(max_age.total_seconds() * 1000)}ms" if isinstance(max_age, timedelta) else max_age
    if not metadata:
        body["metadata"] = False
    return json_text(body)


def _asked(
    service: str | Sequence[str] | None,
    features: Sequence[str],
    labels: Any,
    labels_sql: str | None,
    at: str | None,
    availability: str,
    time_zone: str | None,
    sample: int | str | None,
    seed: int,
    memory_mb: int | None,
) -> dict[str, Any]:
    if (labels is None) == (labels_sql is None):
        raise InvalidInput("invalid_argument", "give `labels` or `labels_sql`, one of them")
    if service is None:
        services: list[str] = []
    else:
        services = [service] if isinstance(service, str) else list(service)
    return {
        "services": services,
        "features": [features] if isinstance(features, str) else list(features),
        "labels": str(labels) if isinstance(labels, str | Path) else None,
        "labels_sql": labels_sql,
        "at_column": at,
        "time_zone": time_zone,
        "sample": None if sample is None else str(sample),
        "seed": seed,
        "availability": availability,
        "memory_mb": memory_mb,
        "output_format": None,
        "manifest": None,
        "part_rows": None,
    }


def _push_parts(rows: Any) -> Iterator[Any]:
    if is_table(rows):
        yield rows
        return
    rows = [rows] if isinstance(rows, Mapping) else list(rows)
    for start in range(0, max(len(rows), 1), PUSH_ROWS_MAX):
        yield rows[start : start + PUSH_ROWS_MAX]


def _push_part(rows: Any) -> tuple[bytes, str, int]:
    """The body, its content type, and how many rows it has (0 where only the server will tell)."""
    if is_table(rows):
        return _native_bytes(_with_stream(rows)), ARROW_STREAM, 0
    return json_text({"rows": rows}).encode(), "application/json", len(rows)


def _joined(outcomes: Sequence[tuple[Mapping[str, Any], int]]) -> PushOutcome:
    exceptions, before = [], 0
    for outcome, size in outcomes:
        exceptions += [dict(e) | {"row": e["row"] + before} for e in outcome["exceptions"]]
        before += size
    return PushOutcome(
        accepted=sum(o["accepted"] for o, _ in outcomes),
        duplicates=sum(o["duplicates"] for o, _ in outcomes),
        refused=sum(o["refused"] for o, _ in outcomes),
        exceptions=exceptions,
        end_offset=outcomes[-1][0]["end_offset"],
    )


def _with_stream(table: Any) -> Any:
    """The table itself, when it can be read over the Arrow PyCapsule interface."""
    if hasattr(table, "__arrow_c_stream__"):
        return table
    raise InvalidInput(
        "invalid_argument",
        f"a {type(table).__name__} is no table",
        "give pandas, polars, pyarrow or anything with `__arrow_c_stream__`, or the path of a file",
    )


def _label_table(labels: Any) -> Any:
    if not isinstance(labels, str | Path):
        return _with_stream(labels)
    import pyarrow.csv
    import pyarrow.parquet

    path = Path(labels)
    return pyarrow.csv.read_csv(path) if path.suffix.lower() == ".csv" else pyarrow.parquet.read_table(path)


def _native_bytes(table: Any) -> bytes:
    try:
        return _native.to_stream(table)
    except _native.NativeError as error:
        raise from_native(error) from None


def _query_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return _timestamp_text(value)
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def _timestamp_text(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise InvalidInput(
            "naive_timestamp", f"the moment {moment} has no time zone", "use datetime(..., tzinfo=timezone.utc)"
        )
    return moment.astimezone(timezone.utc).isoformat()

