#!/usr/bin/env python3
"""Topics of Kafka: events a second from a real broker to durable, servable rows; how soon an event is served; catching up.

Broker, producer and server share the machine, so the figure to compare is events a second *and core of the server*. Events are
JSON with a key and an event time, 100,000 users (Zipf), in order of event time; each is in the log on disk and in the online store
before it counts as applied.
"""
import argparse
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import json

from bench import ROOT, Project, Results, arguments, cpu_seconds, peak_bytes
from redis_store import Redis, settings

sys.path.insert(0, str(ROOT / "tests"))
from kafka.broker import HERE as KAFKA, Broker, Kafka  # noqa: E402

DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
sources:
  events:
    stream: {kafka: {topic: TOPIC}}
    event_time: at
    columns: {at: timestamp!, user_id: int64!, amount: float64}
feature_views:
  activity:
    entity: user
    source: events
    ttl: 36500d
    aggregate:
      amount: {fn: [count, sum, mean, max], column: amount, windows: WINDOWS}
"""


def flink(options, events, window):
    """What Flink's SQL makes of so many of the events, a second of processor time; none where it is not asked for."""
    if options.smoke or options.no_flink:
        return None
    environment = os.environ | {"REQUIREMENTS": str(ROOT / "benches/requirements-flink.txt")}
    span = 35 * 86_400 * events / options.events
    done = subprocess.run(["sh", ROOT / "scripts/python.sh", ROOT / "benches/stream_flink.py", str(events), "100000",
                           str(span), str(window)], env=environment, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit("Flink did not run; leave it out with --no-flink")
    return json.loads(done.stdout.splitlines()[-1])


def producer(address, topic, count, rate=0.0, users=100_000, span=1.0):
    environment = os.environ | {"REQUIREMENTS": str(KAFKA / "requirements.txt")}
    return subprocess.Popen(["sh", ROOT / "scripts/python.sh", ROOT / "benches/stream_producer.py", address, topic,
                             str(count), str(rate), str(users), str(span)], env=environment, text=True,
                            stdout=subprocess.PIPE)


def produce(*words, **more):
    process = producer(*words, **more)
    seconds, _ = process.communicate()
    if process.returncode:
        sys.exit("the events could not be produced")
    return float(seconds)


def status(project):
    with urllib.request.urlopen(f"http://{project.address}/v1/status", timeout=60) as answer:
        return json.load(answer)


def applied(project):
    streams = status(project).get("streams") or [{"events": 0}]
    return streams[0]["events"]


def buckets(project):
    """How many events were servable within each bound so far."""
    with urllib.request.urlopen(f"http://{project.address}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found = re.findall(r'^springhouse_ingest_event_to_servable_seconds_bucket\{.*?le="([^"]+)".*?\} (\d+)', text, re.M)
    return {float(bound): int(count) for bound, count in found}


def add_latency(results, name, before, after):
    """The quantiles of what was counted in between."""
    counts = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    total = counts[float("inf")]
    for quantile in (50, 95, 99):
        within = next(bound for bound, count in counts.items() if count >= total * quantile / 100)
        results.add(f"{name}, p{quantile} (upper bound)", within * 1000, "ms", events=total)


def wait_applied(project, events):
    """Until so many events are applied."""
    end = time.monotonic() + 600
    while (seen := applied(project)) < events:
        if time.monotonic() > end or project.process.poll() is not None:
            sys.exit(f"{seen} of {events} events were applied in ten minutes")
        time.sleep(0.02)


def project_of(options, broker, topic, windows):
    text = DEFINITIONS.replace("TOPIC", topic).replace("WINDOWS", windows)
    return Project(options.program, text, f"project: bench\nkafka: {{brokers: ['{broker.address}']}}\n", options.keep)


def throughput(options, results, broker, kafka, windows, peer, partitions):
    topic = f"throughput-{partitions}-{len(windows)}"
    kafka.create(topic, partitions)
    took = produce(broker.address, topic, options.events, span=35 * 86_400)
    print(f"({options.events:,} events produced in {took:.1f} s)")
    with project_of(options, broker, topic, windows) as project:
        project.run("apply")
        project.serve()
        # What is read before the server is ready counts too: the clock starts with the process.
        wait_applied(project, options.events // 10)
        before, began, cpu = applied(project), time.monotonic(), cpu_seconds(project.process.pid)
        wait_applied(project, options.events)
        seconds, cpu = time.monotonic() - began, cpu_seconds(project.process.pid) - cpu
        events = options.events - before
        per_core = events / max(cpu, 0.01)
        results.add(f"stream: {windows}, {partitions} partitions", events / seconds, "events/s", cpu_s=round(cpu, 2))
        beside = ("Flink, longest window alone, not durable", peer["events_core_s"],
                  per_core / peer["events_core_s"]) if peer else ()
        results.add(f"stream: {windows}, {partitions} partitions, a core", per_core, "events/s", *beside)
        results.add(f"stream: {windows}, peak memory of the server", peak_bytes(project.process.pid) / 2**20, "MiB")


def shared(options, results, broker, kafka, windows, workers, partitions, rate):
    """Workers over a store on Redis: how many events a second, on whose processor time; and how soon one is served."""
    topic = f"shared-{workers}-{len(windows)}"
    kafka.create(topic, partitions)
    produce(broker.address, topic, options.events, span=35 * 86_400)
    redis, processes = Redis(), []
    more = f"kafka: {{brokers: ['{broker.address}'], workers: true}}\n"
    text = DEFINITIONS.replace("TOPIC", topic).replace("WINDOWS", windows)
    name = f"stream: {windows}, {workers} worker{'s' if workers > 1 else ''} on Redis"
    try:
        with Project(options.program, text, settings(redis, more), options.keep) as project:
            project.run("apply")
            project.serve()

            def begin():
                return [subprocess.Popen([options.program.resolve(), "--project", project.folder, "ingest"],
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(workers)]

            def stop():
                for process in processes:
                    process.send_signal(signal.SIGTERM)
                for process in processes:
                    process.wait()
                processes.clear()

            processes += begin()
            wait_applied(project, options.events // 10)
            before, began = applied(project), time.monotonic()
            cpu = sum(cpu_seconds(process.pid) for process in processes)
            of_redis = cpu_seconds(redis.process.pid)
            wait_applied(project, options.events)
            seconds, events = time.monotonic() - began, options.events - before
            cpu = sum(cpu_seconds(process.pid) for process in processes) - cpu
            of_redis = cpu_seconds(redis.process.pid) - of_redis
            results.add(name, events / seconds, "events/s", cpu_s=round(cpu, 2), redis_cpu_s=round(of_redis, 2))
            results.add(f"{name}, a core of the workers", events / max(cpu, 0.01), "events/s")
            results.add(f"{name}, peak memory of a worker", max(peak_bytes(p.pid) for p in processes) / 2**20, "MiB")
            stop()
            if rate:
                # New ones, so that nothing of the above is counted. The first seconds warm them up.
                processes += begin()
                producer(broker.address, topic, int(rate * 5), rate).wait()
                wait_applied(project, int(rate * 5))
                time.sleep(1)
                before = buckets(project)
                producer(broker.address, topic, int(rate * options.seconds), rate).wait()
                wait_applied(project, int(rate * 5) + int(rate * options.seconds))
                time.sleep(1)
                add_latency(results, f"{name}: event to servable at {rate:,.0f}/s", before, buckets(project))
                stop()
    finally:
        for process in processes:
            process.kill()
        redis.close()


def latency(options, results, broker, kafka, rate, seconds, stall):
    topic = f"latency-{int(rate)}"
    kafka.create(topic, 2)
    count = int(rate * seconds)
    with project_of(options, broker, topic, "[1h, 1d, 7d, 30d]") as project:
        project.run("apply")
        project.serve()
        # The first seconds warm everything up.
        warm = int(rate * min(5, seconds))
        producer(broker.address, topic, warm, rate).wait()
        wait_applied(project, warm)
        before = buckets(project)
        producer(broker.address, topic, count, rate).wait()
        count += warm
        wait_applied(project, count)
        add_latency(results, f"stream: event to servable at {rate:,.0f}/s", before, buckets(project))
        if stall:
            process = producer(broker.address, topic, int(rate * (stall + 15)), rate)
            while applied(project) < count + rate / 10:
                time.sleep(0.02)
            time.sleep(2)
            project.process.send_signal(signal.SIGSTOP)
            time.sleep(stall)
            project.process.send_signal(signal.SIGCONT)
            resumed = time.monotonic()
            began = resumed - stall - 2
            behind = applied(project)
            # What was produced by now, but for the last tenth of a second.
            while applied(project) < count + rate * (time.monotonic() - began - 0.1):
                time.sleep(0.02)
            results.add(f"stream: caught up after a stall of {stall:.0f} s at {rate:,.0f}/s",
                        time.monotonic() - resumed, "s", applied_before=behind - count)
            process.wait()
            wait_applied(project, count + int(rate * (stall + 15)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--rate", type=float, default=20_000.0, help="events a second of the open loop")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the open loop")
    parser.add_argument("--stall", type=float, default=60.0, help="seconds for which the server is stopped")
    parser.add_argument("--no-flink", action="store_true", help="leave Flink out")
    options = arguments(parser)
    if options.smoke:
        options.events, options.rate, options.seconds, options.stall = 2_000, 500.0, 1.0, 0.5
    results = Results("stream", options.smoke)
    broker = Broker()
    try:
        kafka = Kafka(broker.address)
        # Fewer events of the long window: it takes Flink minutes.
        throughput(options, results, broker, kafka, "[1h]", flink(options, options.events // 2, 3_600), 4)
        long = flink(options, options.events // 10, 30 * 86_400)
        throughput(options, results, broker, kafka, "[1h, 1d, 7d, 30d]", long, 4)
        for workers in (1, 2):
            shared(options, results, broker, kafka, "[1h]", workers, 4, options.rate if workers == 1 else 0)
        shared(options, results, broker, kafka, "[1h, 1d, 7d, 30d]", 2, 4, 0)
        latency(options, results, broker, kafka, options.rate, options.seconds, options.stall)
        kafka.close()
    finally:
        broker.close()


if __name__ == "__main__":
    main()
