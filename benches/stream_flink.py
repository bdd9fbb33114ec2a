#!/usr/bin/env python3
"""Flink's SQL on the events of `stream.py`: exact windows of count, sum, avg and max for every event, from a file to nowhere, nothing
durable. `stream_flink.py EVENTS USERS SPAN_SECONDS WINDOW_SECONDS`; prints a JSON line: events a second, and a second of
processor time.

Runs in one process of Java on this machine (mini cluster, parallelism 1: one ordered file, which several readers would take unordered).
"""
import json
import os
import pathlib
import random
import sys
import tempfile
import time


def stamp(moment):
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e3):03}"


def write_events(file, count, users, span):
    """The users and times of `stream_producer.py`."""
    drawn = random.Random(7)
    picks = [int(users ** drawn.random()) - 1 for _ in range(1_000_003)]
    first = time.time() - span
    with open(file, "w") as out:
        for number in range(count):
            out.write(f"{picks[number % len(picks)]},{stamp(first + span * number / count)},{number % 1000}.25\n")


def cpu_of_children():
    """Seconds of processor time of the processes below this one, by now."""
    parents, times = {}, {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry.name)], times[int(entry.name)] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_below(pid):
        while pid in parents:
            pid = parents[pid]
            if pid == os.getpid():
                return True
        return False
    return sum(ticks for pid, ticks in times.items() if is_below(pid)) / os.sysconf("SC_CLK_TCK")


def main():
    count, users, span, window = (int(float(word)) for word in sys.argv[1:5])
    from pyflink.table import EnvironmentSettings, TableEnvironment
    with tempfile.TemporaryDirectory(prefix="springhouse-flink-") as folder:
        table = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
        settings = table.get_config()
        settings.set("parallelism.default", "1")
        settings.set("pipeline.object-reuse", "true")
        interval = f"INTERVAL '{window // 86400}' DAY(3)" if window % 86400 == 0 else f"INTERVAL '{window // 3600}' HOUR"

        def run(name, events):
            file = pathlib.Path(folder) / f"{name}.csv"
            write_events(file, events, users, span * events / count)
            table.execute_sql(f"""CREATE TABLE {name} (user_id BIGINT, ts TIMESTAMP(3), amount DOUBLE,
                WATERMARK FOR ts AS ts - INTERVAL '1' SECOND)
                WITH ('connector' = 'filesystem', 'path' = 'file://{file}', 'format' = 'csv')""")
            table.execute_sql(f"""CREATE TABLE {name}_out (user_id BIGINT, ts TIMESTAMP(3), n BIGINT, total DOUBLE, mean DOUBLE,
                most DOUBLE) WITH ('connector' = 'blackhole')""")
            began, cpu = time.monotonic(), cpu_of_children()
            table.execute_sql(f"""INSERT INTO {name}_out SELECT user_id, ts, COUNT(amount) OVER w, SUM(amount) OVER w,
                AVG(amount) OVER w, MAX(amount) OVER w FROM {name} WINDOW w AS (PARTITION BY user_id ORDER BY ts
                RANGE BETWEEN {interval} PRECEDING AND CURRENT ROW)""").wait()
            return time.monotonic() - began, cpu_of_children() - cpu

        # The first job compiles, and starts the cluster.
        run("warm", min(count, 20_000))
        seconds, cpu = run("events", count)
        print(json.dumps({"events_s": count / seconds, "events_core_s": count / max(cpu, 0.01)}))


if __name__ == "__main__":
    main()
