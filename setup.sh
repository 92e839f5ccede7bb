#!/usr/bin/env bash
# Makes .venv with everything pinned in requirements.txt, and sees to a Java 17+ for Spark. Run by make; a second run does nothing.
set -euo pipefail
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3}
stamp=.venv/.ready
want=$(cat requirements.txt pyproject.toml setup.sh | sha256sum | cut -d' ' -f1)

as_root() { # a command as root: directly, or through sudo where that asks no password
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo "$@"; else return 1; fi
}
apt() { # packages, quietly
  command -v apt-get >/dev/null || return 1
  [ -n "${apt_lists_are_new:-}" ] || as_root apt-get -qq update >/dev/null || return 1
  apt_lists_are_new=yes
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1
}

java_is_new_enough() { # $1: a java binary
  local major
  major=$("$1" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -1)
  [ -n "$major" ] && [ "$major" -ge 17 ]
}
find_java() {
  local candidate
  for candidate in "${JAVA_HOME:-/nowhere}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
    if [ -x "$candidate" ] && java_is_new_enough "$candidate"; then return 0; fi
  done
  return 1
}
see_to_java() {
  find_java && return 0
  echo "setup: no Java 17 or newer found; Spark needs one. Installing it with apt ..."
  for package in openjdk-21-jre-headless openjdk-17-jre-headless default-jre-headless; do
    if apt "$package" && find_java; then return 0; fi
  done
  cat >&2 <<'TEXT'
setup: Java 17+ could not be installed here (no root, no apt, or no network).
  Install it as an administrator:   apt-get install openjdk-17-jre-headless     (Fedora: dnf install java-21-openjdk-headless)
  or unpack any JDK 17+ archive in your home folder and set JAVA_HOME to it; then run the same command again.
TEXT
  return 1
}
see_to_compiler() { # pdqhash comes as source: it needs a C++ compiler and Python's headers
  local header
  header=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h
  [ -f "$header" ] && command -v g++ >/dev/null && return 0
  echo "setup: no C++ compiler or no Python headers ($header); installing them with apt ..."
  apt g++ python3-dev && [ -f "$header" ] && return 0
  echo "setup: cannot build pdqhash. Install a compiler and Python's headers (apt-get install g++ python3-dev), then run again." >&2
  return 1
}
see_to_uv() {
  if command -v uv >/dev/null; then UV=uv; return 0; fi
  UV=.tools/uv/bin/uv
  [ -x "$UV" ] && return 0
  if ! "$PYTHON" -m venv .tools/uv 2>/dev/null; then
    rm -rf .tools/uv
    echo "setup: Python has no venv module; installing python3-venv with apt ..."
    apt python3-venv && "$PYTHON" -m venv .tools/uv || {
      echo "setup: cannot make a virtual environment. Install python3-venv (apt-get install python3-venv) or uv, then run again." >&2
      return 1
    }
  fi
  .tools/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && find_java; then exit 0; fi
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: Python 3.11 or newer is needed, found $("$PYTHON" --version). Set PYTHON=python3.12, say." >&2; exit 1; }
see_to_java
see_to_compiler
see_to_uv
echo "setup: installing pinned packages into .venv (about 7 GB, some two minutes) ..."
[ -x .venv/bin/python ] || "$UV" venv --quiet --python "$PYTHON" .venv
"$UV" pip install --quiet --python .venv/bin/python -r requirements.txt
"$UV" pip install --quiet --python .venv/bin/python --no-deps --editable .
echo "$want" > "$stamp"
echo "setup: done"
