#!/usr/bin/env python3
"""Serving beside Feast: the same tables, the same Redis, the same client on the same machine, in turn.

5 views x 10 features of 100,000 users (as in `serving.py`). Feast is tuned: two workers, no access log, workers that never
restart. The values of some users are compared before anything is measured.
"""
import argparse
import json
import os
import random
import signal
import subprocess
import urllib.request

import numpy as np

from bench import ROOT, Project, Results, arguments, load
from redis_store import Redis, free_port, settings
from serving import definitions, write_tables

WORKERS = 2
COMPARED_USERS = 20


def call(address, path, body):
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class Feast:
    """Feast's server over the tables of a project, on a Redis of its own."""

    def __init__(self, data):
        self.redis, self.port = Redis(), free_port()
        environment = os.environ | {"REQUIREMENTS": str(ROOT / "benches" / "requirements-feast.txt"), "FEAST_USAGE": "False"}
        command = [ROOT / "scripts" / "python.sh", ROOT / "benches" / "feast_peer.py", data.parent / "feast", data,
                   str(self.redis.port), str(self.port), str(WORKERS)]
        # In a group of its own: it has workers.
        self.process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
                                        start_new_session=True)
        self.seconds = float(self.process.stdout.readline() or "nan")
        self.address = f"127.0.0.1:{self.port}"
        while True:
            try:
                urllib.request.urlopen(f"http://{self.address}/health", timeout=5).read()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("feast did not start") from None

    def close(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()
        self.redis.close()


def compare(ours, theirs, users):
    """Every value of some users, from both."""
    body = {"entities": {"user_id": users}}
    mine = call(ours, "/v1/features", body | {"service": "fifty"})["features"]
    got = call(theirs, "/get-online-features", body | {"feature_service": "fifty", "full_feature_names": True})
    names = got["metadata"]["feature_names"]
    for name, column in zip(names, got["results"]):
        if "__" in name:
            view, feature = name.split("__")
            expected = mine[f"v{view[4:]}_{feature}"]["values"]
            if column["values"] != expected:
                raise SystemExit(f"{name}: {column['values']} from Feast, {expected} from Springhouse")
    print(f"{len(users)} users: the values of both agree")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = arguments(parser)
    users, seconds = (200, 0.5) if options.smoke else (options.users, options.seconds)
    results, drawn = Results("beside_feast", options.smoke), random.Random(7)
    text = definitions(5)
    text = text.replace("feature_services:\n", "feature_services:\n  ten: {features: [view0]}\n")
    redis = Redis()
    with Project(options.program, text, settings(redis), options.keep) as project:
        write_tables(project.folder, 5, users, np.random.default_rng(7))
        project.run("apply")
        _, wall, _, _ = project.run("materialize")
        feast = Feast(project.folder / "data")
        try:
            rate, theirs = 5 * users / wall, 5 * users / feast.seconds
            results.add("feast: materialize 5 views", rate, "rows/s", "Feast", theirs, rate / theirs)
            address = project.serve()
            compare(address, feast.address, [drawn.randrange(users) for _ in range(COMPARED_USERS)])
            for service, features in (("ten", 10), ("fifty", 50)):
                for entities in (1, 10, 100):
                    asked = [[drawn.randrange(users) for _ in range(entities)] for _ in range(512)]
                    files = {}
                    for path, body in (("/v1/features", {"service": service}),
                                       ("/get-online-features", {"feature_service": service, "full_feature_names": True})):
                        files[path] = project.folder / f"{path.strip('/').replace('/', '-')}-{features}-{entities}.txt"
                        files[path].write_text("".join(json.dumps(body | {"entities": {"user_id": ids}}) + "\n" for ids in asked))
                    for connections in (1, 16):
                        rates = []
                        for server, path in ((address, "/v1/features"), (feast.address, "/get-online-features")):
                            got = load(options.program, "serve", server, replay=files[path], path=path, connections=connections,
                                       seconds=seconds, warm_up=seconds / 4)
                            if got["failed"] > got["requests"] / 100:
                                raise SystemExit(f"{server}: {got['failed']} of {got['requests']} failed: {got['failures']}")
                            rates.append(got)
                        ours, theirs = (got["requests_per_second"] for got in rates)
                        results.add(f"feast: {features}x{entities}, {connections} conn", ours, "req/s", "Feast", theirs, ours / theirs,
                                    p50_us=rates[0]["p50_us"], p99_us=rates[0]["p99_us"], peer_p50_us=rates[1]["p50_us"],
                                    peer_p99_us=rates[1]["p99_us"])
        finally:
            feast.close()
            redis.close()


if __name__ == "__main__":
    main()
