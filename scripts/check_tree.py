#!/usr/bin/env python3
"""Checks what is in the tree: no path of a machine, no private registry, no stub, no huge file. Standard library only."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
FILE_BYTES_MAX = 600_000
DATA_BYTES_MAX = 500_000        # of examples/flights/data together
CODE_LINES_MAX = 1_000

# A pattern and what is wrong with it. Written so that no line here matches itself.
BANNED = [
    (r"/(?:home|root|Users|work|mnt)/[a-z]", "a path of one machine"),
    (r"\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+(?:\.\d+)?:\d{2,5}\b", "a private address"),
    (r"(?i)\[source\.[a-z-]+\]|replace-with\s*=", "a registry of one machine"),
    (r"(?i)\b(?:index-url|extra-index-url|--registry)\b\s*[= ]\s*\S", "a registry of one machine"),
    (r"(?i)\b(?:artifactory|jfrog|nexus)[./:]", "a registry of one machine"),
    (r"\bunimplemented!\(|\btodo!\(|\bTO" r"DO\b|\bFIX" r"ME\b|\bXX" r"X\b", "a stub"),
    (r"(?i)\bissue (?:#|no\.? )?\d+\b(?!\d)", "the number of an issue: say what it was about"),
    (r"^(?:<{7}|>{7}|={7})(?: |$)", "a conflict mark"),
]
# file: patterns that may stand in it
MAY = {"scripts/check_tree.py": ".*"}
TEXT = {".rs", ".py", ".sh", ".toml", ".md", ".yaml", ".yml", ".json", ".txt", ".lua", ".snap", ".csv", "", ".lock"}


def main():
    complaints = []
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                           stdout=subprocess.PIPE).stdout.decode().split("\0")
    data_bytes = 0
    for name in filter(None, files):
        path = ROOT / name
        if not path.is_file():
            continue
        size = path.stat().st_size
        data_bytes += size if name.startswith("examples/flights/data/") else 0
        if size > FILE_BYTES_MAX:
            complaints.append(f"{name}: {size:,} bytes")
        if path.suffix not in TEXT or name in MAY:
            continue
        lines = path.read_text(errors="replace").splitlines()
        if path.suffix == ".rs" and len(lines) > CODE_LINES_MAX:
            complaints.append(f"{name}: {len(lines)} lines; split it by idea")
        if path.name == "mod.rs":
            complaints.append(f"{name}: write `name.rs` beside `name/` instead")
        for number, line in enumerate(lines, 1):
            complaints += [f"{name}:{number}: {what}: {line.strip()[:100]}"
                           for pattern, what in BANNED if re.search(pattern, line)]
    if data_bytes > DATA_BYTES_MAX:
        complaints.append(f"examples/flights/data: {data_bytes:,} bytes, more than {DATA_BYTES_MAX:,}")

    sources = set(re.findall(r'^source = "(.*)"$', (ROOT / "Cargo.lock").read_text(), re.M))
    complaints += [f"Cargo.lock: packages from {source}" for source in
                   sorted(sources - {"registry+https://github.com/rust-lang/crates.io-index"})]
    for complaint in complaints:
        print(f"check_tree: {complaint}", file=sys.stderr)
    if complaints:
        sys.exit(1)
    print("check_tree: clean")


if __name__ == "__main__":
    main()
