"""Everything that Springhouse raises, in one tree.

Branch on the class, or on ``code``, which is stable; texts are for people and may change. ``hint`` says what to do.

>>> issubclass(NotFound, SpringhouseError)
True
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "Conflict",
    "DefinitionError",
    "Forbidden",
    "Internal",
    "InvalidInput",
    "NotFound",
    "Refused",
    "RowsRefused",
    "SpringhouseError",
    "Unavailable",
]


class SpringhouseError(Exception):
    """What went wrong: ``code`` (stable), ``message``, ``hint`` (what to do, or None), ``trace_id`` (of the server's log).

    >>> error = SpringhouseError("unknown_service", "there is no service `x`", "did you mean `y`?")
    >>> print(error)
    [unknown_service] there is no service `x`
      = help: did you mean `y`?
    """

    code: str
    message: str
    hint: str | None
    trace_id: str | None

    def __init__(self, code: str, message: str, hint: str | None = None, trace_id: str | None = None) -> None:
        super().__init__(code, message, hint, trace_id)
        self.code, self.message, self.hint, self.trace_id = code, message, hint, trace_id

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}" + (f"\n  = help: {self.hint}" if self.hint else "")


class InvalidInput(SpringhouseError):
    """What was given is wrong: a key of another type, a label table without its keys. Correct it; do not retry."""


class NotFound(SpringhouseError):
    """There is no such project, service, view, source or job."""


class Forbidden(SpringhouseError):
    """The caller may not do this."""


class Conflict(SpringhouseError):
    """It can't be done as things are now: a breaking change, another job at work, nothing applied yet."""


class Refused(SpringhouseError):
    """Too much at once. Try again later, or send less."""


class Unavailable(SpringhouseError):
    """The server or its store does not answer, or its policy is to fail rather than to serve this value. Can be retried."""


class Internal(SpringhouseError):
    """A fault of Springhouse itself."""


class DefinitionError(InvalidInput):
    """The definitions have mistakes; ``mistakes`` has every one.

    Each is a dict with ``severity``, ``code``, ``message``, ``file``, ``line``, ``column``, ``length`` and, where known,
    ``hint``. The list is empty when the mistakes come from a remote server: the message then has them as text.
    """

    mistakes: list[dict[str, Any]]

    def __init__(
        self,
        code: str,
        message: str,
        hint: str | None = None,
        trace_id: str | None = None,
        mistakes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(code, message, hint, trace_id)
        self.mistakes = [dict(mistake) for mistake in mistakes]


class RowsRefused(InvalidInput):
    """Some pushed rows were refused; the others were taken. ``outcome`` is the :class:`~springhouse.store.PushOutcome`."""

    outcome: Any

    def __init__(self, code: str, message: str, hint: str | None = None, outcome: Any = None) -> None:
        super().__init__(code, message, hint)
        self.outcome = outcome


_BY_STATUS: dict[int, type[SpringhouseError]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    405: InvalidInput,
    408: Unavailable,
    409: Conflict,
    413: Refused,
    429: Refused,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}

# Codes of the native module, which has no HTTP status to tell the class by.
_BY_CODE: dict[str, type[SpringhouseError]] = {
    "breaking_changes": Conflict,
    "cancelled": Conflict,
    "forked": Conflict,
    "internal": Internal,
    "job_broke_off": Internal,
    "lake_failed": Internal,
    "no_definitions": NotFound,
    "no_project": NotFound,
    "nothing_applied": Conflict,
    "registry_conflict": Conflict,
    "source_not_found": NotFound,
    "store_corrupt": Internal,
    "store_locked": Conflict,
    "store_unavailable": Unavailable,
    "unknown_feature": NotFound,
    "unknown_service": NotFound,
    "unknown_source": NotFound,
    "unknown_view": NotFound,
}


def from_answer(status: int, body: bytes) -> SpringhouseError:
    """The error in an answer of the HTTP contract.

    >>> error = from_answer(404, b'{"error": {"code": "unknown_view", "message": "no view `x`"}}')
    >>> type(error).__name__, error.code
    ('NotFound', 'unknown_view')
    >>> from_answer(502, b"<html>").code
    'unexpected_answer'
    """
    kind = _BY_STATUS.get(status, Internal if status >= 500 else InvalidInput)
    try:
        detail = json.loads(body)["error"]
        code, message = str(detail["code"]), str(detail["message"])
    except (ValueError, KeyError, TypeError):
        text = body[:200].decode("utf-8", "replace")
        return kind(
            "unexpected_answer", f"status {status} with a body that is not Springhouse's: {text!r}", "check the address"
        )
    if code == "definitions_wrong":
        kind = DefinitionError
    return kind(code, message, detail.get("hint"), detail.get("trace_id"))


def from_native(error: BaseException) -> SpringhouseError:
    """The error that the native module raised, as the class that users catch."""
    code, message, hint, mistakes = error.args
    if code == "definitions_wrong":
        return DefinitionError(code, message, hint, mistakes=json.loads(mistakes) if mistakes else ())
    return _BY_CODE.get(code, InvalidInput)(code, message, hint)
