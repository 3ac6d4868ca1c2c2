#!/usr/bin/env bash
# Start a Ray head on this machine and stay in the foreground; Ctrl-C or SIGTERM ends it and nothing else.
#   cluster/local.sh [CPUS [RAY_START_OPTION …]]      PORT, DASHBOARD_PORT, RAY_BIN change where and with what
# Ray's own `ray start --block` is used because `ray stop` would end every Ray on the machine.
set -euo pipefail

cpus=${1:-$(nproc)}
shift $(($# > 0))
port=${PORT:-6379}
dashboard_port=${DASHBOARD_PORT:-8265}
here=$(cd "$(dirname "$0")/.." && pwd)
ray=${RAY_BIN:-$([ -x "$here/.venv/bin/ray" ] && echo "$here/.venv/bin/ray" || command -v ray)}

# Jobs are started as `python`: let it be the one beside this ray, which has mmray's dependencies.
PATH="$(dirname "$ray"):$PATH"

# Clients must show the same token (~/.ray/auth_token, made here if there is none).
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
if [ "$RAY_AUTH_MODE" = token ]; then
    "$ray" get-auth-token --generate >/dev/null
fi

# At its end Ray would wait for half a minute that other machines take over: there are none.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-0}

cat <<EOF
Ray head with $cpus CPUs; in another terminal:
  export RAY_AUTH_MODE=$RAY_AUTH_MODE
  mmray submit run CONFIG --address http://127.0.0.1:$dashboard_port
EOF
# The agent that starts jobs gets any free port: Ray's fixed one is taken where a second Ray runs here.
exec "$ray" start --head --block --num-cpus "$cpus" --port "$port" \
    --dashboard-host 127.0.0.1 --dashboard-port "$dashboard_port" \
    --dashboard-agent-listen-port 0 --disable-usage-stats "$@"
