#!/usr/bin/env bash
# Question: two Ray nodes are started as the manual shows, `ray start --head` and `ray start --address`, on one machine
#   as one user. Does that still work after a script of this user has once started a local cluster by `ray.init()`?
# Software: ray 2.60.0, Python 3.11 (pip, own venv), a home directory of its own.
# Most would expect: yes. A local cluster that has ended leaves nothing behind.
# Seen: no. The local cluster has written a token into ~/.ray/auth_token. From then on `ray start --head` finds it and
#   asks for it, but `ray start --address`, by the same user on the same machine, does not send it: the node gives up
#   after 20 attempts with "Authentication token is missing or incorrect". With RAY_AUTH_MODE=token for every node (or
#   disabled for every node) both start. A driver that connects with `ray.init(address=…)` sends the token by itself.
set -euo pipefail
folder=$(mktemp -d)
export HOME=$folder RAY_TMPDIR=$folder RAY_USAGE_STATS_ENABLED=0
mkdir "$folder/ray"
nodes=()
end_nodes() {
    for node in "${nodes[@]}"; do kill -TERM -- "-$node" 2>/dev/null || true; done
    sleep 5
    for node in "${nodes[@]}"; do kill -KILL -- "-$node" 2>/dev/null || true; done
    nodes=()
}
undo() {
    end_nodes
    rm -rf "$folder"
}
trap undo EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    ray==2.60.0 click==8.3.1 2>&1 | grep -v '^WARNING: Location' || true

set -m
start() { # LOG ARGUMENT…: start a node; print whether it runs
    local log=$folder/$1
    shift
    : >"$log"
    "$folder/venv/bin/python" -m ray.scripts.scripts start --block --num-cpus=1 --object-store-memory=80000000 \
        --node-ip-address=127.0.0.1 "$@" >"$log" 2>&1 </dev/null &
    nodes+=($!)
    local node=$!
    disown
    for _ in $(seq 300); do
        if grep -q "Ray runtime started" "$log"; then echo "  ${1}: runs"; return; fi
        if ! kill -0 "$node" 2>/dev/null; then
            echo "  ${1}: ends: $(grep -om1 'Authentication token is missing or incorrect' "$log" || tail -n 1 "$log")"
            return
        fi
        sleep 0.2
    done
    echo "  ${1}: no answer"
}
pair() { # PORT: a head, and a node that joins it
    start "head-$1" --head --port="$1" --include-dashboard=false
    start "node-$1" --address="127.0.0.1:$1"
}

seen=$folder/seen
{
    echo "before:"
    pair 6399
    end_nodes
    "$folder/venv/bin/python" -c 'import ray; ray.init("local", num_cpus=1, include_dashboard=False); ray.shutdown()' \
        >"$folder/local.log" 2>&1
    echo "after ray.init():"
    pair 6400
} >"$seen"
cat "$seen"
expected='before:
  --head: runs
  --address=127.0.0.1:6399: runs
after ray.init():
  --head: runs
  --address=127.0.0.1:6400: ends: Authentication token is missing or incorrect'
[ "$(cat "$seen")" = "$expected" ] && echo "as described" || { echo CHANGED; exit 1; }
