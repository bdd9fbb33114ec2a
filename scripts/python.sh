#!/bin/sh
# Runs Python with the packages of scripts/requirements.txt, from an environment below the cache folder.
# `scripts/python.sh script.py arguments...`; made on the first call, again when the requirements change. REQUIREMENTS names
# another list than scripts/requirements.txt.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${SPRINGHOUSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/springhouse}
requirements=${REQUIREMENTS:-$here/requirements.txt}
stamp=$(cksum <"$requirements" | tr -d ' \n')
venv=$cache/python-$stamp
if [ ! -e "$venv/ready" ]; then
    echo "making a Python environment in $venv" >&2
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >&2
    touch "$venv/ready"
fi
exec "$venv/bin/python" "$@"
