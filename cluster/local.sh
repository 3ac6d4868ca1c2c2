#!/usr/bin/env bash
# Start a Ray head on this machine and stay in the foreground; Ctrl-C or SIGTERM ends it and nothing else.
#   cluster/local.sh [CPUS [RAY_START_OPTION …]]      PORT, DASHBOARD_PORT, RAY_BIN change where and with what
# Its files lie in a folder of its own: a job that looks for `auto` in Ray's default one may land in another
# Ray of the machine. (Ray's own command for stopping would end every Ray of the machine.)
set -euo pipefail

cpus=${1:-$(nproc)}
shift $(($# > 0))
port=${PORT:-6379}
dashboard_port=${DASHBOARD_PORT:-8265}
here=$(cd "$(dirname "$0")/.." && pwd)
ray=${RAY_BIN:-$([ -x "$here/.venv/bin/ray" ] && echo "$here/.venv/bin/ray" || command -v ray)}
python=$(dirname "$ray")/python
folder=$(mktemp -d "${TMPDIR:-/tmp}/mmray-ray-XXXXXX")

# Jobs are started as `python`: let it be the one beside this ray, which has mmray's dependencies.
PATH="$(dirname "$ray"):$PATH"

# Clients must show the same token (~/.ray/auth_token, made here if there is none).
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
if [ "$RAY_AUTH_MODE" = token ]; then
    "$ray" get-auth-token --generate >/dev/null
fi

# At its end Ray would wait for half a minute that other machines take over: there are none.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-0}

# The agent that starts jobs gets any free port: Ray's fixed one is taken where a second Ray runs here.
"$ray" start --head --block --num-cpus "$cpus" --port "$port" \
    --dashboard-host 127.0.0.1 --dashboard-port "$dashboard_port" \
    --dashboard-agent-listen-port 0 --disable-usage-stats --temp-dir "$folder" "$@" >"$folder/start.log" 2>&1 &
head=$!
trap 'kill -TERM $head 2>/dev/null || true' INT TERM
trap 'rm -rf "$folder"' EXIT

answers() { # a dashboard that wants a token answers too
    "$python" - "http://127.0.0.1:$dashboard_port/api/version" <<'PYTHON'
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=5)
except urllib.error.HTTPError:
    pass
except OSError:
    sys.exit(1)
PYTHON
}
until answers; do
    if ! kill -0 $head 2>/dev/null; then
        echo "the Ray head did not start:" >&2
        tail -n 20 "$folder/start.log" >&2
        exit 1
    fi
    sleep 0.5
done
cat <<EOF
Ray head with $cpus CPUs is up; in another terminal:
  export RAY_AUTH_MODE=$RAY_AUTH_MODE
  mmray submit run CONFIG --address http://127.0.0.1:$dashboard_port
or, without a job:
  mmray run CONFIG --address 127.0.0.1:$port
EOF
# A trapped signal interrupts the first wait; the head is then still ending.
wait $head || wait $head || true
