#!/usr/bin/env python3
"""Serving over HTTP/JSON and gRPC: 5 views x 10 latest features of 100,000 users, random users, server and client on one machine.

The layout is that of a Feast comparison made with the same kind of client: tuned `feast serve` on Redis answered, on two
cores of this class, 187 requests/s (1 connection) and 267 (16 connections) for 50 features of one entity, 150 for ten
entities, 28 for a hundred. Those figures are printed beside ours; they are not measured again here.
"""
import argparse
import json
import random
import re
import signal
import struct
import subprocess
import sys
import urllib.request

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import ROOT, Project, Results, arguments, at_half_load, cpu_seconds, load, peak_bytes

sys.path.insert(0, str(ROOT / "scripts"))
from debian import have  # noqa: E402

T0 = 1_735_689_600_000_000
FEAST = {("50x1", 1): 187, ("50x1", 16): 267, ("50x10", 16): 150, ("50x100", 16): 28}


def definitions(views):
    text = "entities:\n  user: {keys: {user_id: int64}}\nsources:\n"
    columns = ", ".join([f"x{i}: float64" for i in range(4)] + [f"n{i}: int64" for i in range(3)]
                        + [f"s{i}: string" for i in range(2)] + ["b0: bool"])
    for k in range(views):
        text += (f"  table{k}: {{table: data/view{k}.parquet, event_time: at, "
                 f"columns: {{at: timestamp!, user_id: int64!, {columns}}}}}\n")
    text += "feature_views:\n"
    for k in range(views):
        names = ", ".join(f"v{k}_{c}: {c}" for c in
                          [*(f"x{i}" for i in range(4)), *(f"n{i}" for i in range(3)), "s0", "s1", "b0"])
        text += f"  view{k}: {{entity: user, source: table{k}, ttl: 36500d, features: {{{names}}}}}\n"
    return text + f"feature_services:\n  fifty: {{features: [{', '.join(f'view{k}' for k in range(views))}]}}\n"


def write_tables(folder, views, users, rng):
    (folder / "data").mkdir()
    for k in range(views):
        columns = {"at": pa.array(T0 + rng.integers(0, 86_400_000_000, users), pa.timestamp("us", "UTC")),
                   "user_id": np.arange(users)}
        columns |= {f"x{i}": rng.standard_normal(users) for i in range(4)}
        columns |= {f"n{i}": rng.integers(-10**9, 10**9, users) for i in range(3)}
        columns |= {f"s{i}": [f"value-{n % 1000}" for n in rng.integers(0, 10**6, users)] for i in range(2)}
        columns["b0"] = rng.random(users) < 0.5
        pq.write_table(pa.table(columns), folder / "data" / f"view{k}.parquet", compression="zstd")


def beside_floor(options, project, address, case, bodies, seconds, results):
    """Our rate beside that of a server which always sends the bytes of one of our answers."""
    with open(bodies) as file:
        request = urllib.request.Request(f"http://{address}/v1/features", file.readline().encode(),
                                         {"content-type": "application/json"})
    answer = project.folder / f"answer-{case}.json"
    answer.write_bytes(urllib.request.urlopen(request, timeout=30).read())
    process = subprocess.Popen([options.program.resolve(), "bench", "floor", answer], text=True, stdout=subprocess.PIPE)
    try:
        floor = process.stdout.readline().split("http://")[1].strip()
        rates = {floor: [], address: []}
        # In turn, so that a machine that grows slower does so for both.
        for _ in range(2):
            for server, measured in rates.items():
                got = load(options.program, "serve", server, replay=bodies, connections=16, seconds=seconds / 2,
                           warm_up=seconds / 4)
                measured.append(got["requests_per_second"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    limit, ours = (sum(measured) / 2 for measured in (rates[floor], rates[address]))
    results.add(f"serving: {case}, 16 conn, beside a static answer", ours, "req/s", "static answer of the same size", limit,
                ours / limit, answer_bytes=answer.stat().st_size)


def message(wanted, ids):
    """`GetFeaturesRequest` of one integer key, as gRPC frames it."""
    def number(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + number(n >> 7)

    def field(place, content):
        return number(place << 3 | 2) + number(len(content)) + content

    integers = field(1, b"".join(number(id << 1) for id in ids))
    parts = [field(1, wanted["service"].encode())] if "service" in wanted else [field(2, f.encode()) for f in wanted["features"]]
    whole = b"".join(parts) + field(3, field(1, b"user_id") + field(2, field(2, integers)))
    return b"\0" + struct.pack(">I", len(whole)) + whole


def h2load(url, body, calls, connections, seconds, *more):
    """Requests/s by a client that isn't ours and speaks both protocols: the same request again and again."""
    command = ["h2load", "--clients", connections, "--max-concurrent-streams", calls // connections, "--duration",
               max(1, round(seconds)), "--warm-up-time", 1, "--data", body, *more, url]
    said = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, check=True).stdout
    patterns = (r"status codes: (\d+) 2xx", r"(\d+) failed", r"\((\d+)\) data")
    answered, failed, data = (int(re.search(pattern, said)[1]) for pattern in patterns)
    # An error of gRPC is a 200 without a message.
    if failed or data < 100 * max(answered, 1):
        raise SystemExit(said)
    return float(re.search(r"([\d.]+) req/s", said)[1])


def contracts(project, address, users, seconds, smoke, results):
    """gRPC beside JSON with one client for both. Calls of gRPC share connections, as its channels do; HTTP/1.1 has one for each."""
    if not have("h2load", "nghttp2-client"):
        print("h2load isn't there: gRPC and JSON are not compared by it")
        return
    body = project.folder / "request"
    cases = [("10x1", {"features": ["view0"]}, 1), ("50x1", {"service": "fifty"}, 1), ("50x100", {"service": "fifty"}, 100)]
    for case, wanted, entities in cases[:1] if smoke else cases:
        ids = [n * 991 % users for n in range(1, entities + 1)]
        asked = [("json", json.dumps(wanted | {"entities": {"user_id": ids}}).encode(), "/v1/features",
                  ["--h1", "--header", "content-type: application/json"]),
                 ("grpc", message(wanted, ids), "/springhouse.v1.FeatureStore/GetFeatures",
                  ["--header", "content-type: application/grpc", "--header", "te: trailers"])]
        for calls in (16,) if smoke else (1, 16):
            rates = {"json": [], "grpc": []}
            for _ in range(1 if smoke else 2):
                for contract, sent, path, more in asked:
                    body.write_bytes(sent)
                    connections = calls if contract == "json" else min(calls, 4)
                    rates[contract].append(h2load(f"http://{address}{path}", body, calls, connections, seconds / 2, *more))
            json_rate, grpc_rate = (sum(of) / len(of) for of in rates.values())
            results.add(f"serving: {case}, {calls} calls, gRPC, h2load", grpc_rate, "req/s", "JSON, h2load", json_rate,
                        grpc_rate / json_rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = arguments(parser)
    users, seconds = (200, 0.3) if options.smoke else (options.users, options.seconds)
    results, random_users = Results("serving", options.smoke), random.Random(7)
    with Project(options.program, definitions(5), keep=options.keep) as project:
        write_tables(project.folder, 5, users, np.random.default_rng(7))
        project.run("apply")
        _, wall, _, _ = project.run("materialize")
        results.add("serving: load 5 views", 5 * users / wall, "rows/s")
        address = project.serve()
        for entities in (1, 10, 100):
            bodies = project.folder / f"bodies-{entities}.txt"
            for metadata in (True, False):
                with open(bodies, "w") as file:
                    for _ in range(512):
                        ids = [random_users.randrange(users) for _ in range(entities)]
                        body = {"service": "fifty", "entities": {"user_id": ids}} | ({} if metadata else {"metadata": False})
                        file.write(json.dumps(body) + "\n")
                for connections in (1, 16):
                    case = f"50x{entities}"
                    before = cpu_seconds(project.process.pid)
                    got = load(options.program, "serve", address, replay=bodies, connections=connections,
                               seconds=seconds, warm_up=seconds / 4)
                    if got["failed"]:
                        raise SystemExit(f"{got['failed']} requests failed")
                    cpu = (cpu_seconds(project.process.pid) - before) / max(1, got["requests"] * 1.25) * 1e6
                    peer = FEAST.get((case, connections)) if metadata else None
                    results.add(f"serving: {case}, {connections} conn{'' if metadata else ', values only'}",
                                got["requests_per_second"], "req/s", peer and "Feast (recorded)", peer,
                                peer and got["requests_per_second"] / peer, p50_us=got["p50_us"], p99_us=got["p99_us"],
                                server_cpu_us=round(cpu, 1))
                    json_rate, before = got["requests_per_second"], cpu_seconds(project.process.pid)
                    got = load(options.program, "serve", address, replay=bodies, connections=connections, grpc=min(connections, 4),
                               seconds=seconds, warm_up=seconds / 4)
                    if got["failed"]:
                        raise SystemExit(f"{got['failed']} calls failed")
                    cpu = (cpu_seconds(project.process.pid) - before) / max(1, got["requests"] * 1.25) * 1e6
                    results.add(f"serving: {case}, {connections} calls, gRPC{'' if metadata else ', values only'}",
                                got["requests_per_second"], "req/s", "JSON", json_rate,
                                got["requests_per_second"] / json_rate, p50_us=got["p50_us"], p99_us=got["p99_us"],
                                server_cpu_us=round(cpu, 1))
        for case, wanted in [("10x1", {"features": ["view0"]}), ("50x1", {"service": "fifty"})]:
            bodies = project.folder / f"floor-{case}.txt"
            lines = [json.dumps(wanted | {"entities": {"user_id": [random_users.randrange(users)]}}) for _ in range(512)]
            bodies.write_text("\n".join(lines) + "\n")
            beside_floor(options, project, address, case, bodies, seconds, results)
        contracts(project, address, users, seconds, options.smoke, results)
        bodies = project.folder / "floor-50x1.txt"
        most = load(options.program, "serve", address, replay=bodies, connections=16, seconds=seconds, warm_up=seconds / 4)
        at_half_load(options.program, address, bodies, most["requests_per_second"], seconds, results, "serving: 50x1")
        results.add("serving: peak memory of the server", peak_bytes(project.process.pid) / 2**20, "MiB")


if __name__ == "__main__":
    main()
