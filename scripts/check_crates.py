#!/usr/bin/env python3
"""Checks the shape of the workspace: what each crate may use, and what it must never reach.

The table below is the truth; ARCHITECTURE.md explains it. Standard library only; asks `cargo` for the graph.
"""
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent

# Which of our crates a crate may name in its Cargo.toml.
MAY_USE = {
    "springhouse-core": [],
    "springhouse-kernel": ["core"],
    "springhouse-expr": ["core", "kernel"],
    "springhouse-registry": ["core"],
    "springhouse-online": ["core", "kernel"],
    "springhouse-online-embedded": ["core", "kernel", "online"],
    "springhouse-online-redis": ["core", "kernel", "online"],
    "springhouse-lake": ["core", "kernel", "expr", "online"],
    "springhouse-ingest": ["core", "kernel", "expr", "online", "lake"],
    "springhouse-kafka": ["core", "ingest"],
    "springhouse-serving": ["core", "kernel", "expr", "online"],
    "springhouse-node": ["core", "kernel", "expr", "registry", "online", "online-embedded", "online-redis", "lake", "ingest", "kafka", "serving"],
    "springhouse-api": ["core", "kernel", "serving"],
    "springhouse-server": ["core", "api", "node", "serving", "ingest", "lake", "registry"],
    "springhouse-python": ["core", "api", "registry", "lake", "ingest", "serving", "node", "server", "online-embedded"],
    "springhouse": ["core", "kernel", "expr", "registry", "online", "online-embedded", "online-redis", "lake", "ingest", "serving", "node", "api", "server"],
}

ASYNC_AND_IO = ["tokio", "object_store", "reqwest", "hyper", "datafusion-common", "datafusion", "heed"]
HTTP = ["axum", "hyper", "tonic", "reqwest", "tower-http", "prost"]

# What a crate must not reach, however far down its tree of dependencies.
NEVER_REACHES = {
    "springhouse-core": ASYNC_AND_IO + HTTP + ["futures", "rand", "getrandom"],
    "springhouse-kernel": ASYNC_AND_IO + HTTP + ["futures"],
    "springhouse-expr": HTTP + ["datafusion", "deltalake-core", "heed"],
    "springhouse-online": ASYNC_AND_IO + HTTP,
    "springhouse-online-embedded": HTTP + ["tokio", "object_store", "datafusion-common"],
    "springhouse-online-redis": ["object_store", "datafusion-common", "heed"] + HTTP,
    "springhouse-registry": ["axum", "tonic", "datafusion-common", "heed", "arrow"],
    "springhouse-serving": HTTP + ["deltalake-core", "heed"],
    "springhouse-api": ["axum", "tonic", "reqwest", "hyper", "deltalake-core", "heed"],
    "springhouse": ["datafusion", "native-tls"],
}

# What a crate must not name itself (others below it may bring it).
NEVER_NAMES = {
    "springhouse-kernel": ["serde_json"],
    "springhouse-online": ["serde_json"],
    "springhouse-serving": ["serde_json", "sonic-rs", "hyper", "axum"],
    "springhouse-lake": ["axum", "hyper"],
    "springhouse-ingest": ["axum", "hyper"],
    "springhouse-node": ["axum", "hyper"],
}

# Two versions of one of these in one program can't exchange data.
ONE_VERSION = ["arrow-array", "arrow-schema", "parquet", "object_store", "datafusion-common", "deltalake-core", "serde"]


def main():
    complaints = []
    metadata = json.loads(cargo("metadata", "--format-version", "1", "--no-deps"))
    packages = {package["name"]: package for package in metadata["packages"]}
    for name in sorted(set(packages) - set(MAY_USE)):
        complaints.append(f"{name} is not in scripts/check_crates.py: say what it may use")
    for name in sorted(set(MAY_USE) - set(packages)):
        complaints.append(f"{name} is in scripts/check_crates.py, but not in the workspace")

    for name, package in packages.items():
        named = {d["name"] for d in package["dependencies"] if d["kind"] is None}
        allowed = {f"springhouse-{short}" for short in MAY_USE.get(name, [])}
        for other in sorted(d for d in named if d.startswith("springhouse") and d not in allowed):
            complaints.append(f"{name} must not use {other}")
        for other in sorted(named & set(NEVER_NAMES.get(name, []))):
            complaints.append(f"{name} must not name {other} in its Cargo.toml")

    for name, banned in NEVER_REACHES.items():
        if name in packages:
            reached = tree(name)
            complaints += [f"{name} reaches {other} (cargo tree -e normal -p {name} -i {other})"
                           for other in banned if other in reached]

    lock = re.findall(r'\[\[package\]\]\nname = "([^"]+)"\nversion = "([^"]+)"', (ROOT / "Cargo.lock").read_text())
    for one in ONE_VERSION:
        versions = [version for name, version in lock if name == one]
        if len(versions) > 1:
            complaints.append(f"two versions of {one} in Cargo.lock: {', '.join(versions)}")

    named = set(re.findall(r"\bspringhouse(?:-[a-z]+)*\b", code_map()))
    for name in sorted(set(packages) - named):
        complaints.append(f"{name} is missing from the code map of ARCHITECTURE.md")
    for name in sorted(named - set(packages)):
        complaints.append(f"ARCHITECTURE.md names {name}, which does not exist")

    for complaint in complaints:
        print(f"check_crates: {complaint}", file=sys.stderr)
    if complaints:
        sys.exit(1)
    print(f"check_crates: {len(packages)} crates keep to their borders")


def code_map():
    """The first fenced block of ARCHITECTURE.md."""
    return (ROOT / "ARCHITECTURE.md").read_text().split("```text\n", 1)[1].split("```", 1)[0]


def tree(name):
    lines = cargo("tree", "--quiet", "--edges", "normal", "--package", name, "--prefix", "none").splitlines()
    return {line.split(" ")[0] for line in lines if line} - {name}


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments, "--locked"], cwd=ROOT, check=True, text=True,
                          stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    main()
