#!/usr/bin/env python3
"""The kernel alone, in memory, on one core: events a second folded into windows of 100,000 entities (Zipf).

Recorded beside it, not measured again here: Flink SQL 2.3, exact OVER windows of count, sum, avg and max, from CSV in memory to
nowhere, a core of a machine of this class.
"""
import argparse
import pathlib
import re
import subprocess

from bench import TARGET, Results
from stream import FLINK

WINDOWS = {"one window": ("1h", "a window of 1 h"), "four windows": ("30d", "windows of 1 h, 1 d, 7 d, 30 d")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", type=pathlib.Path, default=TARGET / "release" / "examples" / "kernel_speed")
    parser.add_argument("--scale", default="1")
    options = parser.parse_args()
    results = Results("kernel", False)
    done = subprocess.run([options.program, options.scale], check=True, text=True, stdout=subprocess.PIPE).stdout
    print(done)
    for name, rate in re.findall(r"^(.+?): \d+ events of .*: (\d+) events a second and core", done, re.M):
        peer, windows = FLINK[WINDOWS[name][0]], WINDOWS[name][1]
        results.add(f"kernel: count, sum, mean, max over {windows}, one core", float(rate), "events/s", "Flink (recorded)", peer,
                    float(rate) / peer)


if __name__ == "__main__":
    main()
