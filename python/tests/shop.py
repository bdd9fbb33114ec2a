"""A small project with history, and the built program's server over it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DEFINITIONS = """
entities:
  user: {description: Somebody, owner: a@example.com, keys: {user: int64}}
sources:
  orders:
    description: What users buy
    owner: a@example.com
    stream: push
    history: data/orders.csv
    event_time: at
    event_id: order
    columns: {at: timestamp!, order: string!, user: int64!, amount: float64, kind: string}
  profiles:
    description: Who users are
    owner: a@example.com
    table: data/profiles.csv
    event_time: at
    columns: {at: timestamp!, user: int64!, city: string, born: date, score: "decimal(10,2)"}
feature_views:
  spending:
    description: How much
    owner: a@example.com
    entity: user
    source: orders
    tier: realtime
    ttl: {soft: 1h, hard: 36500d}
    aggregate:
      orders: {fn: count, windows: [1h, lifetime], default: 0}
      amount: {fn: [sum, mean], column: amount, windows: [1h, lifetime], default: 0.0}
      kinds: {fn: count, windows: [lifetime], group_by: kind, default: null}
  profile:
    description: The newest of everything
    owner: a@example.com
    entity: user
    source: profiles
    tier: batch
    ttl: {soft: 36500d, hard: 36500d}
    features:
      city: {default: nowhere}
      born: {default: null}
      score: {default: null}
      since: {column: at, default: null}
request_views:
  basket:
    description: What is asked
    owner: a@example.com
    fields: {basket: float64!}
    inputs: {usual: "spending:amount_mean_lifetime"}
    features:
      basket_to_usual: {sql: "basket - usual", default: 0.0}
feature_services:
  checkout:
    description: Is it theirs?
    owner: a@example.com
    features: [spending, profile, basket]
"""

ORDERS = """at,order,user,amount,kind
2026-01-01T10:00:00Z,o1,1,10.0,book
2026-01-02T10:00:00Z,o2,1,20.5,book
2026-01-03T10:00:00Z,o3,2,,toy
"""

PROFILES = """at,user,city,born,score
2025-12-01T00:00:00Z,1,Köln,1990-05-06,12.30
2026-01-02T00:00:00Z,1,Bonn,1990-05-06,14.00
"""


def now(seconds_ago: float = 0.0) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds_ago)).isoformat()


def program() -> Path:
    """The built program: named by the caller, or the debug build."""
    if named := os.environ.get("SPRINGHOUSE_PROGRAM"):
        return Path(named)
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"]
    metadata = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return Path(json.loads(metadata)["target_directory"]) / "debug" / "springhouse"


class Server:
    """A running `springhouse serve`, on a free port."""

    def __init__(self, project: Path) -> None:
        command = [program(), "--project", project, "serve", "--bind", "127.0.0.1:0"]
        self.log = (project / "server.log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"http://[\d.:]+", line)
        assert match, f"the server did not say where it listens: {line!r}"
        self.address = match[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()
