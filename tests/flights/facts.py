"""Prints facts about the shipped flight data as JSON. Needs pyarrow (scripts/python.sh)."""
import json
import pathlib
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq

DATA = pathlib.Path(__file__).parent.parent.parent / "examples" / "flights" / "data"
SPLIT = 1_358_053_200_000_000     # 13 January 2013, midnight in New York


def read(name):
    return pq.read_table(DATA / name)


def micros(table, column):
    return table[column].cast("int64").to_pylist()


def main():
    facts = {"bytes": sum(f.stat().st_size for f in DATA.rglob("*.parquet"))}
    everything = {}
    for stream, time in (("departed", "departed_at"), ("arrived", "arrived_at")):
        history, after = read(f"{stream}/history.parquet"), read(f"next/{stream}.parquet")
        times = micros(history, time), micros(after, time)
        ids = history["flight_id"].to_pylist() + after["flight_id"].to_pylist()
        everything[stream] = dict(zip(ids, times[0] + times[1]))
        facts[stream] = {
            "rows": len(ids), "ids": len(set(ids)), "sorted": all(t == sorted(t) for t in times),
            "split": max(times[0]) < SPLIT <= min(times[1]), "type": str(history.schema.field(time).type),
            "null keys": sum(t[c].null_count for t in (history, after) for c in ("origin", "carrier", "tailnum")),
        }
    departed = read("departed/history.parquet")
    late = [at - due for at, due in zip(micros(departed, "departed_at"), micros(departed, "scheduled_at"))]
    facts["delay is departure minus schedule"] = late == [d * 60e6 for d in departed["dep_delay"].to_pylist()]
    minutes = [(at - everything["departed"][i]) / 60e6 for i, at in everything["arrived"].items()]
    facts["minutes gate to gate"] = [min(minutes), max(minutes)]
    labels = read("labels.parquet")
    facts["late share"] = round(pc.mean(labels["late30"].cast("int32")).as_py(), 4)
    # One flight, followed by hand: UA 1545 to Houston was due at 05:15 on 1 January in New York (10:15 UTC), left at 05:17,
    # and landed at 08:30 by the clocks of Houston (14:30 UTC).
    flight = "20130101-UA1545-EWR-0515"
    facts["UA1545"] = [everything[s][flight] // 60_000_000 - 22_616_640 for s in ("departed", "arrived")]
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
