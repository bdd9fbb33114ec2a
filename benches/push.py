#!/usr/bin/env python3
"""Push: durable events a second, and how long after it was sent an event is in the answers.

Two views (windows with four aggregates over three windows, and latest values) of 100,000 users; each acknowledged event is
synced to disk and applied. A probe beside the load pushes single events and asks for their user until the count has moved.
"""
import argparse
import http.client
import json
import statistics
import threading
import time

from bench import Project, Results, arguments, cpu_seconds, load, peak_bytes

DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
sources:
  events:
    stream: push
    event_time: at
    event_id: event_id
    columns: {at: timestamp!, event_id: string!, user_id: int64!, amount: float64}
feature_views:
  activity:
    entity: user
    source: events
    ttl: 36500d
    aggregate:
      amount: {fn: [count, sum, mean, max], column: amount, windows: [1h, 24h, 7d]}
  newest: {entity: user, source: events, ttl: 36500d, features: [amount]}
"""
PROBE_USER = -1


class Probe(threading.Thread):
    """Pushes one event at a time and waits until it is served."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address, self.stopping, self.seconds, self.acknowledged = address, threading.Event(), [], []

    def run(self):
        connection, number = http.client.HTTPConnection(self.address), 0
        while not self.stopping.is_set():
            number += 1
            started = time.monotonic()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self.post(connection, "/v1/push/events", {"rows": [
                {"event_id": f"probe-{number}", "user_id": PROBE_USER, "at": stamp, "amount": 1.0}]})
            self.acknowledged.append(time.monotonic() - started)
            while True:
                answer = self.post(connection, "/v1/features", {
                    "features": ["activity:amount_count_24h"], "entities": {"user_id": [PROBE_USER]}, "metadata": False})
                if next(iter(answer["features"].values()))["values"][0] == number:
                    break
            self.seconds.append(time.monotonic() - started)
            time.sleep(0.005)

    @staticmethod
    def post(connection, path, body):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {text.decode()}")
        return json.loads(text)


def p99(values):
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50_000.0, help="events a second of the open loop")
    options = arguments(parser)
    seconds, rate, batch = (0.5, 2_000.0, 50) if options.smoke else (options.seconds, options.rate, options.batch)
    results = Results("push", options.smoke)
    with Project(options.program, DEFINITIONS, keep=options.keep) as project:
        project.run("apply")
        address = project.serve()
        for size, connections in ((1, 16), (batch, 8)):
            before = cpu_seconds(project.process.pid)
            got = load(options.program, "push", address, batch=size, connections=connections, seconds=seconds,
                       warm_up=min(1.0, seconds / 4))
            check(got)
            cpu = cpu_seconds(project.process.pid) - before
            results.add(f"push: batches of {size}, {connections} connections", got["rows_per_second"], "events/s",
                        p50_us=got["p50_us"], p99_us=got["p99_us"], cpu_s=round(cpu, 2))
        probe = Probe(address)
        probe.start()
        got = load(options.program, "push", address, batch=batch, connections=16, rate=rate / batch, seconds=seconds,
                   warm_up=min(1.0, seconds / 4))
        probe.stopping.set()
        probe.join()
        check(got)
        results.add(f"push: open loop at {rate:,.0f} events/s", got["rows_per_second"], "events/s", p99_us=got["p99_us"])
        results.add("push: sent until acknowledged, p50", statistics.median(probe.acknowledged) * 1000, "ms")
        results.add("push: sent until served, p50", statistics.median(probe.seconds) * 1000, "ms")
        results.add("push: sent until served, p99", p99(probe.seconds) * 1000, "ms", probes=len(probe.seconds))
        results.add("push: peak memory of the server", peak_bytes(project.process.pid) / 2**20, "MiB")


def check(got):
    if got["failed"]:
        raise SystemExit(f"{got['failed']} pushes failed")


if __name__ == "__main__":
    main()
