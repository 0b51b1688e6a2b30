#!/usr/bin/env bash
# The tests that need Python: the workers of simulators against recorded traffic, and `world2act serve` against clients of
# openpi and GR00T. scripts/check-python.sh PROGRAM [FOLDER]; makes the Python environment FOLDER unless it is there.
set -euo pipefail
program=$(realpath "${1:?"which program is to be tested, as target/release/world2act"}")
cd "$(dirname "$0")/.."
folder=${2:-}
if [ -z "$folder" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi

if ! [ -x "$folder/bin/python" ]; then
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check \
        msgpack==1.1.0 numpy==2.2.6 pillow==11.3.0 pyzmq==27.0.1 typing_extensions==4.14.1 websockets==15.0.1
    # openpi-client asks for numpy 1, which has no wheels for Python 3.13; its client works with numpy 2 as well.
    "$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps openpi-client==0.1.2
fi

export PYTHONDONTWRITEBYTECODE=1
"$folder/bin/python" -m unittest discover python/tests
"$folder/bin/python" scripts/check_wire.py "$program"
