"""Two ways to the same HTTP contract: a call into this process, and a socket."""

from __future__ import annotations

import http.client
import select
import ssl
import threading
from collections import deque
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from . import _native
from .errors import InvalidInput, Unavailable, from_native

__all__ = ["ARROW_STREAM", "HttpTransport", "InProcessTransport", "Transport"]

#: The content type of an Arrow IPC stream.
ARROW_STREAM = "application/vnd.apache.arrow.stream"

#: Idle connections kept; further ones are closed after use.
CONNECTIONS_KEPT_MAX = 64


class Transport(Protocol):
    """Sends one request and gives back status and body."""

    def call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body. Raises :class:`Unavailable` when there is no answer."""

    def close(self) -> None:
        """Lets go of what it holds; a later call takes it again."""


class InProcessTransport:
    """The project's node in this process."""

    def __init__(self, project: _native.NativeProject) -> None:
        self._project = project

    def call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        try:
            status, _, answer = self._project.call(method, path, body, list(headers.items()))
        except _native.NativeError as error:
            raise from_native(error) from None
        return status, answer

    def close(self) -> None:
        try:
            self._project.close()
        except _native.NativeError as error:
            raise from_native(error) from None

    def __str__(self) -> str:
        return "embedded"


class HttpTransport:
    """A server, over kept connections that threads share."""

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 30.0) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or parts.hostname is None or parts.path not in ("", "/"):
            raise InvalidInput("invalid_argument", f"`{url}` is no address of a server", "write http://host:port")
        self._url, self._host, self._timeout = url, parts.hostname, timeout
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._lock = threading.Lock()

    def call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        all_headers = {**headers, **self._headers}
        kept = self._kept()
        if kept is not None:
            try:
                return self._exchange(kept, method, path, body, all_headers)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
                kept.close()
                # Closed under our hands. A push may have been taken all the same: only one that names itself is repeated.
                if path.startswith("/v1/push/") and "idempotency-key" not in all_headers:
                    raise Unavailable(
                        "connection_lost",
                        f"{self._url} closed the connection during a push, which may or may not have been taken",
                        "push again with an `idempotency_key`, or with a source that has an `event_id`",
                    ) from error
        connection = self._connection()
        try:
            return self._exchange(connection, method, path, body, all_headers)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unavailable(
                "server_unreachable",
                f"{self._url} does not answer: {error or type(error).__name__}",
                "check the address, and that `springhouse serve` is running",
            ) from error

    def _kept(self) -> http.client.HTTPConnection | None:
        """An idle connection that the other end has not closed."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            # On an idle connection there is nothing to read but its end.
            if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
                return connection
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, bytes]:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        answer = response.read()
        if response.will_close:
            connection.close()
        else:
            self._keep(connection)
        return response.status, answer

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < CONNECTIONS_KEPT_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    def __str__(self) -> str:
        return self._url
