"""Feast over the tables of `serving.py`: loads them into a Redis, then serves; run by `beside_feast.py` in an environment of its own.

`feast_peer.py FOLDER DATA REDIS_PORT PORT WORKERS`: prints the seconds that materialising took, then serves until it is ended.
"""
import contextlib
import datetime
import os
import pathlib
import subprocess
import sys
import time

from feast import FeatureStore

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Float64, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
FIELDS = [Field(name=f"x{{i}}", dtype=Float64) for i in range(4)] + [Field(name=f"n{{i}}", dtype=Int64) for i in range(3)]
FIELDS += [Field(name="s0", dtype=String), Field(name="s1", dtype=String), Field(name="b0", dtype=Bool)]
views = [FeatureView(name=f"view{{k}}", entities=[user], ttl=timedelta(days=36500), schema=FIELDS, online=True,
                     source=FileSource(name=f"table{{k}}", path=f"{data}/view{{k}}.parquet", timestamp_field="at"))
         for k in range(5)]
for view in views:
    globals()[view.name] = view
ten = FeatureService(name="ten", features=views[:1])
fifty = FeatureService(name="fifty", features=views)
"""
STORE = """
project: bench
provider: local
registry: registry.db
offline_store: {{type: dask}}
entity_key_serialization_version: 3
online_store: {{type: redis, connection_string: "127.0.0.1:{redis}"}}
"""


def main():
    folder, data, redis, port, workers = sys.argv[1:]
    folder = pathlib.Path(folder)
    folder.mkdir()
    (folder / "definitions.py").write_text(DEFINITIONS.format(data=data))
    (folder / "feature_store.yaml").write_text(STORE.format(redis=redis))
    os.chdir(folder)
    program = pathlib.Path(sys.executable).parent / "feast"
    # Standard output is for what the caller reads.
    subprocess.run([program, "apply"], check=True, stdout=sys.stderr)
    store = FeatureStore(".")
    begun = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):
        store.materialize(datetime.datetime(2024, 12, 31), datetime.datetime(2025, 1, 3))
    print(time.monotonic() - begun, flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.execv(program, [program, "serve", "-h", "127.0.0.1", "-p", port, "-w", workers, "--no-access-log", "--max-requests",
                     "100000000", "--registry_ttl_sec", "60"])


if __name__ == "__main__":
    main()
