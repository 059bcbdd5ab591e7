#!/bin/bash
# Install Headwater below one prefix: install.sh [--root DIR] [--prefix /opt/headwater] [--no-link]
#
#   PREFIX/VERSION-DIGEST/   a virtual environment; one that is complete is left alone
#   PREFIX/current           link to the one that nodes start from; moved in one step
#   PREFIX/previous          where it pointed before: install.sh --back goes there
#
# Nodes that run are not touched: `headwater restart`, or `systemctl reload`, takes them over.
# Root also gets the units, the user and the settings of the kernel, unless --no-system is given.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
prefix=/opt/headwater root='' link=yes system=yes back=no
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=$2; shift 2 ;;
    --root) root=$2; shift 2 ;;  # where / of the machine is, to make an image
    --no-link) link=no; shift ;;
    --no-system) system=no; shift ;;
    --back) back=yes; shift ;;
    *) sed -n '2,10s/^# \?//p' "$0" >&2; exit 2 ;;
  esac
done
at=$root$prefix

point() { # LINK TARGET, in one step: a node that restarts finds the old one or the new one
  ln -sfn "$2" "$at/.$1.new"
  mv -T "$at/.$1.new" "$at/$1"
}

if [ "$back" = yes ]; then
  now=$(readlink "$at/current") before=$(readlink "$at/previous") || {
    echo "there is no earlier version below $prefix" >&2
    exit 1
  }
  [ -x "$at/$before/bin/headwater" ] || { echo "$prefix/$before is not complete" >&2; exit 1; }
  point current "$before"
  point previous "$now"
  echo "current is $before"
  exit
fi

release=$(cat "$here/release")
python=${PYTHON:-$(command -v python3.11 || command -v python3)}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "Headwater needs Python 3.11 or later: PYTHON=/path/to/it $0" >&2; exit 1; }
target=$at/$release
if [ ! -e "$target/complete" ]; then
  rm -rf "$target"
  mkdir -p "$at"
  chmod 755 "$at"
  "$python" -m venv "$target" ||
    { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
  pip=("$target/bin/python" -m pip --disable-pip-version-check install --quiet --no-index
    --find-links "$here/wheels" --no-cache-dir)
  # Debian's pip is too old for some wheels, so pip comes first.
  "${pip[@]}" --require-hashes -r "$here/locks/bootstrap.txt"
  "${pip[@]}" --require-hashes -r "$here/locks/runtime.txt"
  "${pip[@]}" --no-deps "$here"/wheels/headwater-*.whl
  install -Dm644 "$here/hls.js" "$target/node_modules/hls.js/dist/hls.min.js"
  cp "$here/install.sh" "$target/install.sh"
  if [ -n "$root" ]; then # scripts name the interpreter where it will be
    grep -rlI "^#!$root" "$target/bin" | xargs -r sed -i "1s|^#!$root|#!|"
  fi
  "$target/bin/python" -m compileall -q "$target/lib"
  touch "$target/complete"
  echo "installed $release"
fi
if [ "$link" = yes ] && [ "$(readlink "$at/current" || true)" != "$release" ]; then
  if [ -L "$at/current" ]; then point previous "$(readlink "$at/current")"; fi
  point current "$release"
  echo "current is $release"
fi

if [ "$system" = yes ] && [ "$(id -u)" -eq 0 ]; then
  units=$root/etc/systemd/system
  # Before the units were written, with other paths in them if the prefix is another one.
  put() { # FILE TARGET
    sed "s|/opt/headwater|$prefix|g" "$1" >"$2.new"
    if cmp -s "$2.new" "$2"; then rm "$2.new"; else mv "$2.new" "$2"; chmod 644 "$2"; fi
  }
  mkdir -p "$units/headwater-.service.d" "$root/etc/sysusers.d" "$root/etc/tmpfiles.d" \
    "$root/etc/sysctl.d"
  for unit in "$here"/systemd/*.service "$here"/systemd/*.socket; do
    put "$unit" "$units/$(basename "$unit")"
  done
  put "$here/systemd/headwater-.service.d/node.conf" "$units/headwater-.service.d/node.conf"
  put "$here/systemd/headwater.sysusers" "$root/etc/sysusers.d/headwater.conf"
  put "$here/systemd/headwater.tmpfiles" "$root/etc/tmpfiles.d/headwater.conf"
  put "$here/systemd/headwater.sysctl" "$root/etc/sysctl.d/60-headwater.conf"
  if [ -z "$root" ]; then
    systemd-sysusers /etc/sysusers.d/headwater.conf
    systemd-tmpfiles --create /etc/tmpfiles.d/headwater.conf
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
  fi
fi
