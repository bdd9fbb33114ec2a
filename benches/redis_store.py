#!/usr/bin/env python3
"""The online store on a real Redis: materialisation, and requests beside what the same Redis does for `redis-benchmark`.

Client, server and Redis share the machine. The layout is that of `serving.py`; the caches of the server are off for the figures
that are compared with Redis, so that every request asks it.
"""
import argparse
import json
import random
import re
import signal
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from bench import ROOT, Project, Results, arguments, at_half_load, cpu_seconds, load, peak_bytes
from serving import FEAST, definitions, write_tables

sys.path.insert(0, str(ROOT / "tests"))
from springhouse_testing import free_port  # noqa: E402

FEAST_ROWS = 10_400     # recorded: `feast materialize`, Redis, two cores of this class
NO_CACHE = "serving: {hot_cache_bytes_max: 0, negative_cache_ms: 0, coalesce: false}\n"


class Redis:
    def __init__(self):
        self.port, self.folder = free_port(), tempfile.mkdtemp(prefix="springhouse-bench-redis-")
        self.process = subprocess.Popen(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                                         "--dir", self.folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while subprocess.run(["redis-cli", "-p", str(self.port), "ping"], capture_output=True, text=True).stdout != "PONG\n":
            if self.process.poll() is not None:
                sys.exit("redis-server did not start")

    def benchmark(self, connections, seconds, *command):
        """Requests a second, p50 and p99 in microseconds, of `redis-benchmark`."""
        count = str(int(20_000 * max(seconds, 0.1)))
        done = subprocess.run(["redis-benchmark", "-p", str(self.port), "-c", str(connections), "-n", count, "-r", "100000",
                               "--csv", *command], capture_output=True, text=True, check=True)
        line = [float(x) for x in re.findall(r'"([\d.]+)"', done.stdout.strip().splitlines()[-1])]
        rate, _, _, p50, _, p99, _ = line[-7:]
        return rate, p50 * 1000, p99 * 1000

    def floor(self, rows):
        """Rows a second of `redis-benchmark`: new keys with values of the size of a row, 500 to a round trip; then empties it."""
        count = str(max(rows, 50_000))     # of fewer, done within a millisecond, it tells no rate
        done = subprocess.run(["redis-benchmark", "-p", str(self.port), "-c", "4", "-P", "500", "-n", count, "-r", "1000000000",
                               "--csv", "set", "k" * 40 + ":__rand_int__", "x" * 100], capture_output=True, text=True, check=True)
        subprocess.run(["redis-cli", "-p", str(self.port), "flushall"], capture_output=True, check=True)
        return float(re.findall(r'"([\d.]+)"', done.stdout.strip().splitlines()[-1])[-7])

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def settings(redis, more="", keys=""):
    return f"project: bench\nstore: {{kind: redis}}\nredis: {{urls: ['redis://127.0.0.1:{redis.port}']{keys}}}\n{more}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = arguments(parser)
    users, seconds = (200, 0.3) if options.smoke else (options.users, options.seconds)
    results, drawn = Results("redis_store", options.smoke), random.Random(7)
    redis = Redis()
    try:
        with Project(options.program, definitions(5), settings(redis, NO_CACHE), options.keep) as project:
            write_tables(project.folder, 5, users, np.random.default_rng(7))
            project.run("apply")
            floor = redis.floor(5 * users)
            _, wall, cpu, peak = project.run("materialize")
            rate = 5 * users / wall
            results.add("redis: materialize 5 views", rate, "rows/s", "Feast (recorded)", FEAST_ROWS, rate / FEAST_ROWS,
                        cpu_s=round(cpu, 2), peak_mib=round(peak / 2**20))
            results.add("redis: materialize beside the store alone", rate, "rows/s", "SET of redis-benchmark", floor, rate / floor)
            address = project.serve()
            # Five values of the size of a row of ten features, in one round trip, as a request for five views needs them.
            subprocess.run(["redis-cli", "-p", str(redis.port), "set", "floor", "x" * 120], capture_output=True, check=True)
            raw_rate, raw_p50, raw_p99 = redis.benchmark(1, seconds, "mget", *["floor"] * 5)
            results.add("redis-benchmark: MGET of 5, 1 conn", raw_rate, "req/s", p50_us=raw_p50, p99_us=raw_p99)
            ask(options, project, address, redis, results, drawn, users, seconds, raw_p50, "")
        with Project(options.program, definitions(5), settings(redis), options.keep) as cached:
            subprocess.run(["redis-cli", "-p", str(redis.port), "flushall"], capture_output=True, check=True)
            write_tables(cached.folder, 5, users, np.random.default_rng(7))
            cached.run("apply")
            cached.run("materialize")
            address = cached.serve()
            ask(options, cached, address, redis, results, drawn, users, seconds, raw_p50, ", hot cache")
        with Project(options.program, definitions(5), settings(redis, NO_CACHE, ", row_layout: entity"), options.keep) as hashes:
            subprocess.run(["redis-cli", "-p", str(redis.port), "flushall"], capture_output=True, check=True)
            write_tables(hashes.folder, 5, users, np.random.default_rng(7))
            hashes.run("apply")
            wall = hashes.run("materialize")[1]
            results.add("redis: materialize 5 views, a hash per entity", 5 * users / wall, "rows/s", "a key per row", rate,
                        5 * users / wall / rate)
            ask(options, hashes, hashes.serve(), redis, results, drawn, users, seconds, raw_p50, ", a hash per entity")
    finally:
        redis.close()


def ask(options, project, address, redis, results, drawn, users, seconds, raw_p50, how):
    for entities in (1, 100):
        bodies = project.folder / f"bodies-{entities}.txt"
        with open(bodies, "w") as file:
            for _ in range(512):
                ids = [drawn.randrange(users) for _ in range(entities)]
                file.write(json.dumps({"service": "fifty", "entities": {"user_id": ids}}) + "\n")
        for connections in (1, 16):
            case = f"50x{entities}"
            before = cpu_seconds(project.process.pid)
            got = load(options.program, "serve", address, replay=bodies, connections=connections, seconds=seconds,
                       warm_up=seconds / 4)
            # One now and then is shed when both cores are busy; more means that something is wrong.
            if got["failed"] > got["requests"] / 100:
                raise SystemExit(f"{got['failed']} requests failed: {got['failures']}")
            cpu = (cpu_seconds(project.process.pid) - before) / max(1, got["requests"] * 1.25) * 1e6
            peer = FEAST.get((case, connections))
            results.add(f"redis: {case}, {connections} conn{how}", got["requests_per_second"], "req/s",
                        peer and "Feast (recorded)", peer, peer and got["requests_per_second"] / peer,
                        p50_us=got["p50_us"], p99_us=got["p99_us"], server_cpu_us=round(cpu, 1), levels=got["levels"], failures=got["failures"])
            if case == "50x1" and connections == 16:
                at_half_load(options.program, address, bodies, got["requests_per_second"], seconds, results, f"redis: {case}{how}")
            if case == "50x1" and connections == 1:
                results.add(f"redis: {case}, 1 conn{how}, p50", got["p50_us"], "us", "MGET of redis-benchmark", raw_p50,
                            got["p50_us"] / raw_p50)
    results.add(f"redis: memory of the server{how}", peak_bytes(project.process.pid) / 2**20, "MiB")


if __name__ == "__main__":
    main()
