"""Features as a FastAPI dependency: the endpoint says which keys it is asked with, and is given the answer.

    from typing import Annotated
    from fastapi import Depends, FastAPI
    from springhouse import Features
    from springhouse.fastapi import features, lifespan

    app = FastAPI(lifespan=lifespan("examples/flights"))
    flight = features(None, "late_departure", entities=["origin", "carrier", "tailnum"],
                      request={"distance": float, "sched_hour": int})

    @app.get("/late/{origin}/{carrier}/{tailnum}")           # keys from the path, request fields from the query
    def late(answer: Annotated[Features, Depends(flight)]) -> dict[str, float]:
        return {"late": predict(answer)}

FastAPI is imported when something here is called; without it that raises :class:`~springhouse.errors.InvalidInput`
(``missing_package``).
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import keyword
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from .errors import Conflict, Forbidden, InvalidInput, NotFound, Refused, SpringhouseError, Unavailable
from .features import Features
from .store import Store, open

__all__ = ["features", "lifespan", "on_error"]

#: The HTTP status of an error, by its class; the first that fits. Everything else is a 500.
_STATUSES: tuple[tuple[type[SpringhouseError], int], ...] = (
    (InvalidInput, 400),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (Refused, 429),
    (Unavailable, 503),
)
#: The parameter that the store is found by; a name that no entity key has.
_HTTP_REQUEST = "springhouse_http_request"


def features(
    store: Store | Callable[[], Store] | None,
    service: str | Sequence[str],
    *,
    entities: Sequence[str] | Mapping[str, Any],
    request: Sequence[str] | Mapping[str, Any] = (),
) -> Callable[..., Awaitable[Features]]:
    """A FastAPI dependency: reads entity keys and request fields from the call, and gives the features of a service.

    ``store``: a store, a function that gives one, or None for the one that :func:`lifespan` opened. ``service``: as
    in :meth:`springhouse.Store.features`. ``entities`` and ``request``: names of keys and fields, or names with their
    types. A name in the endpoint's path is read from there, and from the query otherwise; as a type,
    ``Annotated[str, Body(embed=True)]`` reads a field of the JSON body, and ``Annotated[list[str], Query()]`` many
    rows. A name without a type is text. FastAPI checks the types and documents the parameters.

    The :class:`~springhouse.Features` have one row, or one row per item when the types are lists. Where the store
    raises, the endpoint answers an HTTP error whose ``detail`` has ``code``, ``message``, ``hint`` and ``trace_id``.

    Raises :class:`InvalidInput`: ``missing_package`` without FastAPI, ``invalid_argument`` for a name that can't be a
    parameter or is given twice.

    >>> dependency = features(None, "checkout", entities={"user": int}, request={"basket": float})
    >>> [name for name in inspect.signature(dependency).parameters if not name.startswith("springhouse")]
    ['user', 'basket']
    """
    fastapi = _fastapi()
    keys, fields = _typed(entities), _typed(request)
    for name in [*keys, *fields]:
        if not name.isidentifier() or keyword.iskeyword(name) or name in keys.keys() & fields.keys():
            raise InvalidInput(
                "invalid_argument",
                f"`{name}` can't be a parameter of an endpoint, or is a key and a request field at once",
                "call `store.features` in the endpoint instead",
            )

    async def dependency(**given: Any) -> Features:
        opened = _store_of(store, given.pop(_HTTP_REQUEST))
        rows = {name: given[name] for name in keys}
        asked = {name: given[name] for name in fields}
        try:
            return await opened.features_async(service, rows, request=asked or None)
        except SpringhouseError as error:
            raise fastapi.HTTPException(_status(error), _detail(error)) from error

    # FastAPI reads what to look for in a call from the signature: for a name in the path, the path, else the query.
    dependency.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
            for name, kind in {_HTTP_REQUEST: fastapi.Request, **keys, **fields}.items()
        ]
    )
    return dependency


def lifespan(project: str | Path | Callable[[], Store]) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """The ``lifespan`` of an app: opens the store before the first call, and closes it after the last.

    ``project``: the folder of a project, or a function that gives a store, such as
    ``lambda: springhouse.connect("http://127.0.0.1:8765")``. Endpoints find the store at ``app.state.springhouse``.
    With several worker processes, let a `springhouse serve` have the project: one process at a time may write.

    Raises at the start of the app what :func:`springhouse.open` raises.
    """

    @asynccontextmanager
    async def opened(app: Any) -> AsyncIterator[None]:
        store = await asyncio.to_thread(project if callable(project) else lambda: open(project))
        app.state.springhouse = store
        try:
            yield
        finally:
            await asyncio.to_thread(store.close)

    return opened


async def on_error(request: Any, error: Exception) -> Any:
    """Answers a :class:`SpringhouseError` as the dependency does.

    For what an endpoint's own calls raise: ``app.add_exception_handler(SpringhouseError, on_error)``.
    """
    if not isinstance(error, SpringhouseError):
        raise error
    _fastapi()
    from fastapi.responses import JSONResponse

    return JSONResponse({"detail": _detail(error)}, _status(error))


def _typed(names: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(names, Mapping):
        return dict(names)
    return dict.fromkeys([names] if isinstance(names, str) else names, str)


def _store_of(store: Store | Callable[[], Store] | None, http_request: Any) -> Store:
    if store is None:
        found = getattr(http_request.app.state, "springhouse", None)
        if not isinstance(found, Store):
            raise RuntimeError("the app has no store: give FastAPI(lifespan=springhouse.fastapi.lifespan(project))")
        return found
    return store if isinstance(store, Store) else store()


def _status(error: SpringhouseError) -> int:
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def _detail(error: SpringhouseError) -> dict[str, str | None]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "trace_id": error.trace_id}


def _fastapi() -> Any:
    try:
        return importlib.import_module("fastapi")
    except ImportError:
        raise InvalidInput("missing_package", "FastAPI is not installed", "pip install fastapi") from None
