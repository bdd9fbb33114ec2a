"""Prints the rows of a Delta table's Parquet files, those that its log still has, as lines of JSON."""
import json
import pathlib
import sys

import pyarrow.parquet

table = pathlib.Path(sys.argv[1])
files = set()
for commit in sorted((table / "_delta_log").glob("*.json")):
    for action in map(json.loads, commit.read_text().splitlines()):
        if "add" in action:
            files.add(action["add"]["path"])
        if "remove" in action:
            files.discard(action["remove"]["path"])
for file in sorted(files):
    for row in pyarrow.parquet.read_table(table / file).to_pylist():
        print(json.dumps(row, default=str))
