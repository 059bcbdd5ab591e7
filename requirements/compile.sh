#!/bin/bash
# Write the lock files again, with the newest versions: requirements/compile.sh [--upgrade]
# They carry hashes and no index address, so that they serve with any mirror.
set -euo pipefail
cd "$(dirname "$0")"
export CUSTOM_COMPILE_COMMAND=requirements/compile.sh
options=(--quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url
  --no-emit-trusted-host --no-emit-find-links --no-emit-options "$@")
compile() { ../.venv/bin/pip-compile "${options[@]}" --output-file "$1" "$2"; }
compile bootstrap.txt bootstrap.in
compile runtime.txt ../pyproject.toml
compile dev.txt dev.in
compile node.txt node.in
