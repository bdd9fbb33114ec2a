#!/usr/bin/env python3
"""Training sets beside DuckDB, Polars, pandas, DataFusion and Spark in the same run, Parquet to Parquet.

join: point-in-time join of labels with three views of ten features. 100,000 entities of uneven popularity, 90 days, rows in
order of arrival, 1 % corrections (same entity and event time, a later row), 5 % nulls in one column, TTL 7 days.
windows: count, sum, mean and max over 1 h, 24 h, 7 d and 30 d, distinct merchants of 7 d, exact tails.
join, own tables: the same rows as they are kept after they were pushed and `springhouse optimize` has compacted them.
All answers are compared, value by value as a hash; an engine whose answer differs ends the run.
"""
import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pyarrow.parquet as pq
import training_data
import training_peers
from bench import Project, Results, arguments

HERE = pathlib.Path(__file__).parent
SIZES = {"join": {"XS": (100_000, 500_000), "S": (1_000_000, 5_000_000), "M": (10_000_000, 20_000_000)},
         "windows": {"XS": (100_000, 1_000_000), "S": (1_000_000, 10_000_000), "M": (3_000_000, 30_000_000)}}
NAMES = {"duckdb": "DuckDB", "polars": "Polars", "pandas": "pandas", "datafusion": "DataFusion", "spark": "Spark local",
         "floor": "decode + encode alone"}


def settle(out):
    """Nobody pays for what was there before: an output to be replaced, and what others have left to be written."""
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)
    os.sync()


def measure(peer, workload, folder, out, threads, limit):
    """(seconds, CPU seconds, peak bytes) of a peer's whole process; None when it took longer than the limit."""
    settle(out)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, HERE / "training_peers.py", peer, workload, folder, out, str(threads)],
                               env=os.environ | {"POLARS_MAX_THREADS": str(threads), "PYTHONDONTWRITEBYTECODE": "1"})
    while time.monotonic() < started + limit:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            if status != 0:
                sys.exit(f"{peer} failed: {os.waitstatus_to_exitcode(status)}")
            return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        time.sleep(0.005)
    process.kill()
    process.wait()
    return None


def apart(function, *words):
    """Calls a function in a process of its own: a child's peak memory is never less than its parent's was."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *words).result()


def run(workload, peers, options, results):
    labels, rows = (500, 2_000) if options.smoke else SIZES[workload][options.size]
    labels, rows = options.labels or labels, options.rows or rows
    entities = options.entities or (50 if options.smoke else 100_000)
    runs = 1 if options.smoke else options.runs
    definitions = {"join": training_data.join_definitions, "windows": training_data.window_definitions}[workload]()
    generate = {"join": training_data.join_data, "windows": training_data.window_data}[workload]
    with contextlib.ExitStack() as projects:
        project = projects.enter_context(Project(options.program, definitions, keep=options.keep))
        apart(generate, project.folder, labels, rows, entities, options.hot, options.seed)
        project.run("apply")
        has_own = options.own if options.own is not None else options.size != "M"
        own = projects.enter_context(compacted(project, options, results)) if has_own and workload == "join" else None
        ours, from_own = [], []
        theirs = {peer: [] for peer in peers if workload in training_peers.PEERS[peer]}
        out = project.folder / "ours.parquet"
        expected = None
        for _ in range(runs):      # in turn, so that a busy machine is busy for all
            ours.append(train(project, "labels.parquet", out))
            expected = expected or apart(training_data.fingerprint, out)
            if own:
                from_own.append(train(own, "labels.parquet", own_out := own.folder / "ours.parquet"))
                if len(from_own) == 1 and (found := apart(training_data.fingerprint, own_out)) != expected:
                    sys.exit(f"{workload}: from its own tables {found}, else {expected}")
            for peer, times in theirs.items():
                answer = project.folder / f"{peer}.parquet"
                if (measured := measure(peer, workload, project.folder, answer, options.threads, options.limit)) is None:
                    theirs[peer] = None
                    print(f"{NAMES[peer]}: stopped after {options.limit} s", flush=True)
                    continue
                times.append(measured)
                if peer != "floor" and len(times) == 1 and (found := apart(training_data.fingerprint, answer)) != expected:
                    sys.exit(f"{workload}: {NAMES[peer]} gives {found}, Springhouse {expected}")
            theirs = {peer: times for peer, times in theirs.items() if times is not None}
        wall, cpu, peak = (statistics.median(column) for column in zip(*ours))
        views = f" x {training_data.VIEWS} x" if workload == "join" else ","
        size = f"{labels:,} labels{views} {rows:,} {'rows' if workload == 'join' else 'events'}"
        size += f", {options.hot:.0%} of one entity" if options.hot else ""
        for peer, times in theirs.items():
            their_wall, their_cpu, their_peak = (statistics.median(column) for column in zip(*times))
            results.add(f"training {workload}: {size}", wall, "s", NAMES[peer], their_wall, their_wall / wall,
                        cpu_s=round(cpu, 2), peer_cpu_s=round(their_cpu, 2), peak_mib=round(peak / 2**20),
                        peer_peak_mib=round(their_peak / 2**20), runs=runs)
        if not theirs:
            results.add(f"training {workload}: {size}", wall, "s", cpu_s=round(cpu, 2), peak_mib=round(peak / 2**20), runs=runs)
        results.add(f"training {workload}: peak memory", peak / 2**20, "MiB")
        if from_own:
            own_wall, own_cpu, own_peak = (statistics.median(column) for column in zip(*from_own))
            more = {"cpu_s": round(own_cpu, 2), "peak_mib": round(own_peak / 2**20), "runs": runs}
            results.add(f"training {workload}, own tables: {size}", own_wall, "s", "files by arrival", wall, wall / own_wall, **more)
            for peer, times in theirs.items():
                their_wall = statistics.median(seconds for seconds, *_ in times)
                results.add(f"training {workload}, own tables: {size}", own_wall, "s", f"{NAMES[peer]}, files by arrival",
                            their_wall, their_wall / own_wall, **more)
        again(workload, size, project, out, (wall, runs, options.cache_mb), results)


def train(project, labels, out):
    """(seconds, CPU seconds, peak bytes) of making a training set."""
    words = ["--service", "training", "--labels", project.folder / labels, "--out", out, "--availability", "event"]
    settle(out)
    return project.run("train", *words)[1:]


@contextlib.contextmanager
def compacted(project, options, results):
    """A project with the same rows in tables that Springhouse keeps, as compaction leaves them."""
    with Project(options.program, training_data.join_definitions(pushed=True), keep=options.keep) as own:
        apart(training_data.pushed_join, project.folder, own.folder, 50 if options.smoke else 100_000)
        own.run("apply")
        _, seconds, cpu, peak = own.run("optimize", "--vacuum", "0s")
        tables = own.folder / ".springhouse" / "lake"
        rows = sum(pq.ParquetFile(file).metadata.num_rows for file in tables.rglob("*.parquet"))
        results.add("compacting", rows / seconds, "rows/s", cpu_s=round(cpu, 2), peak_mib=round(peak / 2**20))
        yield own


def again(workload, size, project, out, ours, results):
    """The same with an event cache, once to make it and then from it; and a hundredth, and a thousandth, of the labels."""
    wall, runs, cache_mb = ours
    settings = project.folder / "springhouse.yaml"
    without = settings.read_text()
    labels = project.folder / "labels.parquet"
    fewer = [(part, project.folder / f"labels-{part}.parquet") for part in (100, 1000)]
    for part, path in fewer:
        apart(training_data.every, labels, path, part)

    def measured(labels):
        return train(project, labels, out)[0]
    of_fewer = [statistics.median(measured(path) for _ in range(runs)) for _, path in fewer]
    expected = apart(training_data.fingerprint, out)
    # Files that were written just now are not cached.
    time.sleep(max(0.0, 2.5 - (time.time() - max(file.stat().st_mtime for file in project.folder.rglob("*.parquet")))))
    settings.write_text(without + f"jobs: {{event_cache_mb: {cache_mb}}}\n")
    results.add(f"training {workload}, making the cache: {size}", made := measured(labels), "s", "without", wall, wall / made)
    size_mib = sum(file.stat().st_size for file in project.folder.rglob("*.events")) / 2**20
    results.add(f"training {workload}: the cache", size_mib, "MiB")
    if size_mib == 0:
        sys.exit("nothing was cached")
    times = statistics.median(measured(labels) for _ in range(runs))
    results.add(f"training {workload}, cached: {size}", times, "s", "without", wall, wall / times)
    for (part, path), before in zip(fewer, of_fewer):
        times = statistics.median(measured(path) for _ in range(runs))
        results.add(f"training {workload}, cached: 1 label of {part}", times, "s", "without", before, before / times)
    if (found := apart(training_data.fingerprint, out)) != expected:
        sys.exit(f"{workload}: cached {found}, without {expected}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workload", choices=["join", "windows"], action="append", help="both when left out")
    parser.add_argument("--size", choices=["XS", "S", "M"], default="S")
    parser.add_argument("--labels", type=int, help="instead of the size's")
    parser.add_argument("--rows", type=int, help="rows of a view, or events, instead of the size's")
    parser.add_argument("--entities", type=int)
    parser.add_argument("--hot", type=float, default=0.0, help="share of the rows and labels that one entity has besides")
    parser.add_argument("--peers", help="comma-separated; those that are installed when left out")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a peer is stopped")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--own", action=argparse.BooleanOptionalAction,
                        help="also from tables that Springhouse keeps, compacted; when left out: not of size M")
    parser.add_argument("--cache-mb", type=int, default=8192, help="size of the event cache of the runs that have one")
    parser.add_argument("--seed", type=int, default=7)
    options = arguments(parser)
    packages = {"floor": "pyarrow", "spark": "pyspark"}
    found = [peer for peer in NAMES if importlib.util.find_spec(packages.get(peer, peer))]
    peers = options.peers.split(",") if options.peers is not None else found
    if strangers := [peer for peer in peers if peer and peer not in NAMES]:
        parser.error(f"no such peer: {', '.join(strangers)}; there are {', '.join(NAMES)}")
    peers = [peer for peer in peers if peer and not (options.smoke and peer == "spark")]
    results = Results("training", options.smoke)
    for workload in options.workload or ["join", "windows"]:
        run(workload, peers, options, results)


if __name__ == "__main__":
    main()
