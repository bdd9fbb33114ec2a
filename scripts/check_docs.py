#!/usr/bin/env python3
"""Checks that the documents name what the code has: settings, definition keys, HTTP paths, subcommands; and that links lead
somewhere. Standard library only."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
CRATES = ROOT / "crates"

# By crate: the struct whose public fields are settings, and the key of springhouse.yaml that it stands below.
SETTINGS = {
    "springhouse-ingest": ("PushSettings", "push"),
    "springhouse-serving": ("ServingSettings", "serving"),
    "springhouse-server": ("ServerSettings", "server"),
    "springhouse-online-redis": ("RedisSettings", "redis"),
    "springhouse-kafka": ("KafkaSettings", "kafka"),
    "springhouse": ("TelemetrySettings", "telemetry"),
}


def main():
    complaints = []
    operations = (ROOT / "docs/operations.md").read_text()
    for crate, (struct, section) in SETTINGS.items():
        text = "\n".join(file.read_text() for file in (CRATES / crate / "src").rglob("*.rs"))
        match = re.search(rf"pub(?:\(crate\))? struct {struct} \{{(.*?)\n\}}", text, re.S)
        if match is None:
            complaints.append(f"{crate}: no struct {struct}; correct scripts/check_docs.py")
            continue
        keys = re.findall(r"^\s+pub(?:\(crate\))? (\w+):", match[1], re.M)
        table = operations.partition(f"\n`{section}:`")[2].partition("\n\n|")[2].partition("\n\n")[0]
        told = re.findall(r"^\| `(\w+)`", table, re.M)
        complaints += differ(f"docs/operations.md, {section}:", keys, told)

    declared = read(CRATES / "springhouse-core/src/declared.rs")
    keys = set(re.findall(r'^\s+"(\w+)" \w+:', declared, re.M)) - {"description", "owner", "tags"}
    told = set(re.findall(r"\w+", (ROOT / "docs/definitions.md").read_text()))
    complaints += [f"docs/definitions.md doesn't tell `{key}`" for key in sorted(keys - told)]

    routes = re.findall(r'"(/[\w/{}.-]*)"', read(CRATES / "springhouse-api/src/routes.rs"))
    api = (ROOT / "docs/http-api.md").read_text()
    words = set(re.findall(r"`([^`\s]+)`", api)) | set(re.findall(r"`(?:GET|POST) ([^`]+)`", api))
    words |= {f"/v1/admin/{word}" for word in words}
    complaints += [f"docs/http-api.md doesn't tell {route}" for route in routes if route not in words]

    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link and not (page.parent / link).exists():
                complaints.append(f"{page.relative_to(ROOT)}: the link {link} leads nowhere")
    for complaint in complaints:
        print(f"check_docs: {complaint}", file=sys.stderr)
    if complaints:
        sys.exit(1)
    print("check_docs: the documents name what the code has")


def read(path):
    return path.read_text() if path.exists() else ""


def differ(where, keys, told):
    return ([f"{where} doesn't tell `{key}`" for key in keys if key not in told]
            + [f"{where} tells `{key}`, which does not exist" for key in told if key not in keys])


if __name__ == "__main__":
    main()
