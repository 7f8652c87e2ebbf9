#!/bin/sh
# Runs everything that must hold: style, types, tests. From a fresh clone: sh tests/run.sh
#   arguments go to pytest, for example: sh tests/run.sh tests/codebooks -k e8p
#   VENV     the environment to use or make (default: .venv)
#   WORKERS  processes that share the tests (default: 2); files are not divided
#   PYTHON   the Python to make it with (default: python3)
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"

# Install only when a list of requirements changed since the last time.
stamp=$(cat requirements.txt tests/requirements.txt | cksum)
if [ "$(cat "$venv/.requirements" 2>/dev/null || true)" != "$stamp" ]; then
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
    echo "$stamp" > "$venv/.requirements"
fi

# The browser tests drive a real Chromium: one that is there, or Debian's where this may install it.
find_chromium() {
    for name in "${QUIP_CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
        [ -n "$name" ] && command -v "$name" && return 0
    done
    return 1
}
if ! QUIP_CHROMIUM=$(find_chromium); then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends chromium >/dev/null || true
    fi
    QUIP_CHROMIUM=$(find_chromium) || echo "No Chromium found: the browser tests will be skipped." >&2
fi
export QUIP_CHROMIUM
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
exec "$venv/bin/python" -m pytest -n "${WORKERS:-2}" --dist loadfile "$@"
