#!/usr/bin/env bash
# Makes a Python with LIBERO and the simulator workers, for `world2act evaluate --python DIR/bin/python`.
#
#     scripts/setup-libero.sh DIR [PYTHON]        PYTHON is 3.10 or 3.11, python3.11 if not given
#
# LIBERO_ASSETS names a folder with LIBERO's assets; without it hf-libero downloads its own at the first use. Rendering
# on a machine without a GPU needs OSMesa (Debian: libosmesa6); with one, set MUJOCO_GL=egl.
set -euo pipefail
if [ $# -lt 1 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$1
python=${2:-python3.11}

"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' || {
    echo "$python has another version than 3.10 or 3.11, which robosuite 1.4.0 and numpy below 2 need" >&2
    exit 2
}
if [ -n "${LIBERO_ASSETS:-}" ] && [ ! -d "$LIBERO_ASSETS/stable_hope_objects" ]; then
    echo "LIBERO_ASSETS=$LIBERO_ASSETS is no folder of LIBERO's assets: it has no stable_hope_objects" >&2
    exit 2
fi

"$python" -m venv "$folder"
folder=$(cd "$folder" && pwd)
# From a copy, because pip builds in the folder itself.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R "$root/python" "$copy/python"
"$folder/bin/pip" install --quiet "$copy/python[libero]"
# Without their own dependencies: environments need neither robomimic nor transformers nor a desktop's OpenCV.
"$folder/bin/pip" install --quiet --no-deps robosuite==1.4.0 hf-libero==0.1.4 bddl==1.0.1

site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
libero=$site/libero/libero
if [ -n "${LIBERO_ASSETS:-}" ]; then
    ln -sfn "$(cd "$LIBERO_ASSETS" && pwd)" "$libero/assets"
fi
# LIBERO asks a question at its first import unless this file is there; the workers find it by their own place.
mkdir -p "$folder/libero"
cat > "$folder/libero/config.yaml" <<EOF
benchmark_root: $libero
bddl_files: $libero/bddl_files
init_states: $libero/init_files
assets: $libero/assets
datasets: $folder/libero/datasets
EOF
"$folder/bin/python" -c 'import w2a_workers.libero as libero; print("LIBERO is there;", libero.assets())'
