#!/usr/bin/env python3
"""The kernel alone, in memory, on one core: events a second folded into windows of 100,000 entities (Zipf).

Recorded beside it, not measured again here: Flink SQL 2.3, exact OVER windows of count, sum, avg and max, from CSV in memory to
nowhere, a core of a machine of this class.
"""
import argparse
import re
import subprocess

from bench import Results, arguments

# What is folded, and what Flink makes of its longest window alone.
WINDOWS = {"one window": ("a window of 1 h", 130_000), "four windows": ("windows of 1 h, 1 d, 7 d, 30 d", 22_000)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", default="1")
    options = arguments(parser)
    results = Results("kernel", options.smoke)
    program = options.program.parent / "examples" / "kernel_speed"
    done = subprocess.run([program, "0.001" if options.smoke else options.scale], check=True, text=True, stdout=subprocess.PIPE).stdout
    print(done)
    for name, rate in re.findall(r"^(.+?): \d+ events of .*: (\d+) events a second and core", done, re.M):
        windows, peer = WINDOWS[name]
        results.add(f"kernel: count, sum, mean, max over {windows}, one core", float(rate), "events/s", "Flink (recorded)", peer,
                    float(rate) / peer)


if __name__ == "__main__":
    main()
