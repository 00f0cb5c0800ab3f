# Servers that a script starts: on loopback, on free ports, below one temporary directory, and gone when it ends.
# Sourced after common.sh.
# shellcheck shell=bash

WORK_DIR=''
STARTED_PIDS=()

# Makes the script's temporary directory, WORK_DIR, and has it and every started process cleaned up at the end.
open_work_dir() {
    [[ -z $WORK_DIR ]] || return 0
    WORK_DIR="$(mktemp -d "${TMPDIR:-/tmp}/kiteq-$1.XXXXXX")"
    trap 'clean_up $?' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

clean_up() {
    local status=$1 index
    trap '' INT TERM
    # The last one first: a broker must not lose its registry while it stops.
    for ((index = ${#STARTED_PIDS[@]} - 1; index >= 0; index--)); do
        stop_process "${STARTED_PIDS[index]}" 15 || true
    done
    if [[ $status -ne 0 && $status -ne 130 && $status -ne 143 ]]; then
        show_logs
    fi
    rm -rf -- "$WORK_DIR"
    trap - EXIT
    exit "$status"
}

# The last lines of every log below WORK_DIR.
show_logs() {
    local log
    for log in "$WORK_DIR"/*.log; do
        [[ -s $log ]] || continue
        printf -- '--- last lines of %s ---\n' "${log##*/}" >&2
        tail -n 25 -- "$log" >&2
    done
}

# start_process NAME COMMAND...: runs it in the background with its output in WORK_DIR/NAME.log. Its pid is in STARTED_PID.
# In a session of its own, so that Ctrl-C reaches the script alone, which then stops it in order.
start_process() {
    local name=$1
    shift
    setsid "$@" </dev/null >>"$WORK_DIR/$name.log" 2>&1 &
    STARTED_PID=$!
    STARTED_PIDS+=("$STARTED_PID")
}

# stop_process PID SECONDS: asks it to stop, and kills it when it has not after so many seconds.
stop_process() {
    local pid=$1 deadline=$((SECONDS + $2))
    kill -TERM "$pid" 2>/dev/null || { wait "$pid" 2>/dev/null || true; return 0; }
    while kill -0 "$pid" 2>/dev/null; do
        if ((SECONDS >= deadline)); then
            kill -KILL "$pid" 2>/dev/null || true
            wait "$pid" 2>/dev/null || true
            return 1
        fi
        sleep 0.05
    done
    wait "$pid" 2>/dev/null || true
}

# kill_process PID: SIGKILL, and waits until it is gone.
kill_process() {
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# port_open PORT [HOST]: whether something listens there.
port_open() { (exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null; }

# Prints a loopback port that nobody listens on, below the range from which outgoing connections take theirs.
free_port() {
    local port attempt
    for ((attempt = 0; attempt < 200; attempt++)); do
        port=$((10000 + (RANDOM << 15 | RANDOM) % 20000))
        port_open "$port" || { echo "$port"; return 0; }
    done
    die "found no free port between 10000 and 30000 on 127.0.0.1"
}

# wait_for SECONDS WHAT PID COMMAND...: until the command succeeds; at once an error when the process is gone.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2 pid=$3
    shift 3
    until "$@" >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || die "$what: the process ended before it was ready"
        ((SECONDS < deadline)) || die "$what: not ready in time"
        sleep 0.05
    done
}

# http_ok PORT PATH [HOST]: whether a GET of http://HOST:PORT/PATH is answered with status 200. Needs no curl.
http_ok() {
    local line host=${3:-127.0.0.1}
    exec 3<>"/dev/tcp/$host/$1" || return 1
    printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$2" "$host" >&3
    IFS= read -r -t 2 line <&3 || line=''
    exec 3>&-
    [[ $line == *' 200 '* ]]
}

# http_body PORT PATH [HOST]: prints the body of that answer.
http_body() {
    local host=${3:-127.0.0.1}
    exec 3<>"/dev/tcp/$host/$1" || return 1
    printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$2" "$host" >&3
    timeout 5 cat <&3 | sed '1,/^\r*$/d'
    exec 3>&-
}

# json_number NAME: prints the first number of that name in pretty JSON on standard input.
json_number() { sed -n "/^ *\"$1\": [0-9]/{s/^ *\"$1\": \([0-9.]*\).*/\1/p;q}"; }

now_ms() { echo $(($(date +%s%N) / 1000000)); }

sleep_ms() { sleep "$(($1 / 1000)).$(printf '%03d' $(($1 % 1000)))"; }

# pause_ms LEAST MOST: sleeps for a random time between.
pause_ms() { sleep_ms $(($1 + RANDOM % ($2 - $1 + 1))); }

# kill_later MS PID: SIGKILL after so long, in the background. KILLER fails when the process had ended by itself.
kill_later() {
    (sleep_ms "$1" && kill -KILL "$2") &
    KILLER=$!
}
