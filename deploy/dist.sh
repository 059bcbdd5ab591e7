#!/bin/bash
# Put all that a machine needs into one file: deploy/dist.sh [FOLDER] (default: dist)
#
#   headwater-VERSION-DIGEST.tar.gz
#     install.sh            puts it below one prefix; needs Python 3.11 and no network
#     release               VERSION-DIGEST: two builds of the same source have the same one
#     wheels/ locks/        Headwater, and every package that it needs, with hashes
#     hls.js systemd/
#
# It holds for machines of the kind that it is made on: same Python, same C library or a later one.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${1:-dist}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SOURCE_DATE_EPOCH PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONWARNINGS=ignore
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 1577836800)

mkdir -p "$work/source" "$work/dist/wheels" "$work/dist/locks"
# From a copy: setuptools leaves a build folder, and takes files out of an old one.
cp -r pyproject.toml README.md LICENSE common origin edge relay balancer "$work/source"
find "$work/source" -name __pycache__ -prune -exec rm -rf {} +
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/dist/wheels" \
  "$work/source"
"$python" -m pip download --quiet --require-hashes --only-binary :all: --dest "$work/dist/wheels" \
  -r requirements/runtime.txt
"$python" -m pip download --quiet --require-hashes --only-binary :all: --dest "$work/dist/wheels" \
  -r requirements/bootstrap.txt
cp requirements/runtime.txt requirements/bootstrap.txt "$work/dist/locks"
cp node_modules/hls.js/dist/hls.min.js "$work/dist/hls.js"
cp -r deploy/systemd "$work/dist/systemd"
cp deploy/install.sh "$work/dist"

cd "$work/dist"
version=$(basename wheels/headwater-*.whl | cut -d- -f2)
digest=$(find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-10)
echo "$version-$digest" >release
cd - >/dev/null
file=$out/headwater-$version-$digest.tar.gz
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
  -C "$work/dist" -cf - . | gzip -n -6 >"$file.new"
mv "$file.new" "$file"
echo "$file"
