"""What the benchmarks share: a project in a scratch folder, a server, the load client, and the list of results."""
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def arguments(parser):
    """Adds what every benchmark takes, and parses."""
    parser.add_argument("--program", type=pathlib.Path, default=TARGET / "release" / "springhouse")
    parser.add_argument("--smoke", action="store_true", help="tiny: only shows that the benchmark still runs")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder")
    return parser.parse_args()


class Results:
    """Prints results as they come and writes them to target/bench/NAME.json, one JSON object a line."""

    def __init__(self, name, smoke):
        folder = TARGET / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(folder / f"{name}{'-smoke' if smoke else ''}.json", "w")

    def add(self, name, value, unit, peer=None, peer_value=None, ratio=None, **more):
        line = {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio}
        line |= more | {"machine": f"{os.cpu_count()} x {platform.machine()}", "load": round(os.getloadavg()[0], 1)}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        beside = "" if peer is None else f"   {peer}: {peer_value:,.6g} {unit}, ratio {ratio:.2f}"
        print(f"{name:<44} {value:>14,.6g} {unit:<10}{beside}", flush=True)


class Project:
    """A project in a scratch folder."""

    def __init__(self, program, definitions, settings="project: bench\n", keep=False):
        self.program, self.keep, self.process = program.resolve(), keep, None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="springhouse-bench-", dir=os.environ.get("BENCH_DIR")))
        (self.folder / "features").mkdir()
        (self.folder / "features" / "definitions.yaml").write_text(definitions)
        (self.folder / "springhouse.yaml").write_text(settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(120)
        if self.keep:
            print(f"kept {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *words):
        """Runs a subcommand: (stdout, seconds, CPU seconds, peak bytes)."""
        started = time.monotonic()
        process = subprocess.Popen([self.program, "--project", self.folder, *map(str, words)], text=True,
                                   stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        if status != 0:
            sys.exit(f"springhouse {' '.join(map(str, words))} failed: {os.waitstatus_to_exitcode(status)}\n{out}")
        return out, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024

    def serve(self):
        """Starts the server; its address."""
        self.process = subprocess.Popen(
            [self.program, "--project", self.folder, "serve", "--bind", "127.0.0.1:0"], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, bufsize=1)
        for line in self.process.stdout:
            if match := re.search(r"http://([\d.]+:\d+)", line):
                self.address = match[1]
                break
        else:
            sys.exit("the server did not start")
        drain(self.process.stdout)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"http://{self.address}/ready", timeout=5):
                    return self.address
            except OSError:
                time.sleep(0.02)
        sys.exit("the server was not ready in two minutes")


def drain(stream):
    import threading
    threading.Thread(target=lambda: [None for _ in stream], daemon=True).start()


def load(program, kind, address, **options):
    """Runs `springhouse bench KIND`; what it measured."""
    words = [program.resolve(), "bench", kind, "--address", address, "--format", "json"]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)


def at_half_load(program, address, bodies, most, seconds, results, name):
    """Latencies at half of the rate that was reached: requests come when they are due, whether others were answered or not."""
    got = load(program, "serve", address, replay=bodies, rate=most / 2, connections=32, seconds=seconds, warm_up=seconds / 4)
    results.add(f"{name}, half load", got["requests_per_second"], "req/s", "as fast as answered", most,
                got["requests_per_second"] / most)
    for part in ("p50", "p99"):
        results.add(f"{name}, half load, {part}", got[f"{part}_us"], "us")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid):
    return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024
