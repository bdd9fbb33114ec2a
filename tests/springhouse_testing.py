"""Drives the built program from outside: a project in a temporary folder, a server on a free port, a client.

Standard library only. The program is $SPRINGHOUSE_PROGRAM, or the newest debug build.
"""
import functools
import http.client
import json
import os
import pathlib
import queue
import re
import shutil
import socket
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).parent.parent
LONG = os.environ.get("SPRINGHOUSE_TEST_LONG") == "1"
SEED = int(os.environ.get("SPRINGHOUSE_TEST_SEED", "1"))
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
ANSWER_SECONDS_MAX = 60


@functools.cache
def program():
    """The program under test."""
    if named := os.environ.get("SPRINGHOUSE_PROGRAM"):
        return pathlib.Path(named)
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"], cwd=ROOT, check=True,
                              stdout=subprocess.PIPE)
    return pathlib.Path(json.loads(metadata.stdout)["target_directory"]) / "debug" / "springhouse"


def free_port():
    """A loopback port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def eventually(what, holds, seconds):
    """Until `holds()` is true; its result."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := holds():
            return result
        time.sleep(0.05)
    raise AssertionError(f"seed {SEED}, never: {what}")


def certificate(folder, name, authority=None):
    """A key and a certificate in PEM (`NAME.key`, `NAME.crt`): of an authority, or signed by one for this machine."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
               "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt", "-addext", "subjectAltName=IP:127.0.0.1"]
    if authority:
        command += ["-CA", folder / f"{authority}.crt", "-CAkey", folder / f"{authority}.key",
                    "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Failed(Exception):
    """The program answered with an error; `status` is the HTTP status or exit status."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


class Project:
    """A project folder with definitions, removed at the end."""

    def __init__(self, definitions=None, settings="project: test\n"):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="springhouse-test-"))
        self.server = None
        if definitions is not None:
            (self.folder / "features").mkdir()
            (self.folder / "features" / "definitions.yaml").write_text(definitions)
            (self.folder / "springhouse.yaml").write_text(settings)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.server:
            self.server.kill()
        if kind is None or not os.environ.get("SPRINGHOUSE_TEST_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"kept {self.folder}", file=sys.stderr)

    def run(self, *arguments, check=True, timeout=600):
        """Runs a subcommand to its end."""
        done = subprocess.run([program(), "--project", self.folder, *map(str, arguments)], text=True, timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        if check and done.returncode != 0:
            raise Failed(done.returncode, f"springhouse {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}")
        return done

    def serve(self, crash_at=None):
        """Starts `springhouse serve` on a free port and waits until it is ready."""
        self.server = Server(self.folder, crash_at)
        return self.server


class Server:
    """A running `springhouse serve`."""

    def __init__(self, folder, crash_at=None):
        environment = dict(os.environ)
        environment.pop("SPRINGHOUSE_CRASH_AT", None)
        if crash_at:
            environment["SPRINGHOUSE_CRASH_AT"] = crash_at
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [program(), "--project", folder, "serve", "--bind", "127.0.0.1:0"], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, bufsize=1)
        self.lines, self.log = queue.Queue(), []
        threading.Thread(target=self._read, daemon=True).start()
        self.address = None

    def _read(self):
        for line in self.process.stdout:
            self.log.append(line.rstrip())
            self.lines.put(line)
        self.lines.put(None)

    def wait_ready(self):
        """Waits until the server takes requests; False when it died before (an armed crash point)."""
        end = time.monotonic() + START_SECONDS_MAX
        while self.address is None:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise Failed("timeout", "the server did not say where it listens\n" + self.tail()) from None
            if line is None:
                return False
            if match := re.search(r"http://([\d.]+:\d+)", line):
                self.address = match[1]
        while time.monotonic() < end:
            try:
                with Client(self) as client:
                    client.call("GET", "/ready")
                    return True
            except (OSError, http.client.HTTPException, Failed):
                if self.process.poll() is not None:
                    return False
                time.sleep(0.01)
        raise Failed("timeout", "the server was not ready in time\n" + self.tail())

    def eventually(self, what, holds, seconds):
        """Until `holds(client)` is true; its result."""
        def asked():
            with Client(self) as client:
                return holds(client)
        try:
            return eventually(what, asked, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def tail(self):
        return "\n".join(self.log[-40:])

    def alive(self):
        return self.process.poll() is None

    def kill(self):
        """kill -9."""
        if self.alive():
            self.process.kill()
        self.process.wait()

    def wait_dead(self, seconds):
        """True when the server died within that time."""
        try:
            self.process.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False

    def stop(self):
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("timeout", "the server did not stop\n" + self.tail()) from None


class Client:
    """One kept connection to a server."""

    def __init__(self, server, timeout=ANSWER_SECONDS_MAX):
        self.connection = http.client.HTTPConnection(server.address, timeout=timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def call(self, method, path, body=None, headers=None):
        """The answer's JSON (or text); [`Failed`] unless the status is 2xx."""
        data = None if body is None else body if isinstance(body, (bytes, str)) else json.dumps(body)
        self.connection.request(method, path, data, {"content-type": "application/json"} | (headers or {}))
        answer = self.connection.getresponse()
        text = answer.read().decode()
        if not 200 <= answer.status < 300:
            raise Failed(answer.status, text)
        return json.loads(text) if "json" in (answer.headers.get("content-type") or "") else text

    def push(self, source, rows, **more):
        return self.call("POST", f"/v1/push/{source}", {"rows": rows} | more)

    def features(self, features, entities, **more):
        """`{feature: {"values": [...], ...}}`."""
        return self.call("POST", "/v1/features", {"features": features, "entities": entities} | more)["features"]
