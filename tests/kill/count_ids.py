"""Prints how often each value of a column stands in the Delta table of the one stream below a folder, as JSON.

Reads the table's log itself, so that it doesn't trust the code that wrote it. Needs pyarrow (scripts/python.sh).
"""
import collections
import json
import pathlib
import sys
import urllib.parse

import pyarrow.parquet as pq


def files(table):
    """The data files of the newest version: every add that was not removed."""
    live = {}
    for commit in sorted((table / "_delta_log").glob("*.json")):
        for line in commit.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                live[action["add"]["path"]] = True
            elif "remove" in action:
                live.pop(action["remove"]["path"], None)
    return [table / urllib.parse.unquote(name) for name in live]


def main():
    folder, column = pathlib.Path(sys.argv[1]), sys.argv[2]
    counts = collections.Counter()
    for log in folder.rglob("_delta_log"):
        for file in files(log.parent):
            if column in pq.read_schema(file).names:
                counts.update(pq.ParquetFile(file).read([column])[column].to_pylist())
    json.dump(counts, sys.stdout)


if __name__ == "__main__":
    main()
