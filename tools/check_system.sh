#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Looks for what pip cannot install; names the first thing missing in one line, with the command that brings it.
# Usage: tools/check_system.sh [PYTHON]
set -eu

python=${1:-python3}

fail() {
    echo "flagtriton: $1" >&2
    exit 2
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    fail "this is $(uname -s) on $(uname -m); the embedded Triton runs on Linux on x86_64 only"
command -v "$python" >/dev/null 2>&1 ||
    fail "no $python: sudo apt-get install python3 python3-venv, or name another with make PYTHON=python3.11"

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
3.10 | 3.11 | 3.12) ;;
*) fail "$python is Python $version, expected 3.10, 3.11 or 3.12: name one with make PYTHON=python3.11" ;;
esac

"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "Python $version cannot make virtual environments: sudo apt-get install python$version-venv"

"$python" - <<'EOF' || fail "no shared libpython$version.so, which Triton loads: sudo apt-get install libpython$version"
import pathlib, sys, sysconfig
name = sysconfig.get_config_var("INSTSONAME") or ""
libdir = pathlib.Path(sysconfig.get_config_var("LIBDIR") or "/")
folders = [libdir, libdir / (sysconfig.get_config_var("MULTIARCH") or "")]
sys.exit(not (".so" in name and any((folder / name).is_file() for folder in folders)))
EOF
