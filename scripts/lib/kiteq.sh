# The broker, the bridge and their companions, as the scripts start them. Sourced after process.sh.
# shellcheck shell=bash

# BROKER_BIN_DIR=DIR uses the binaries in DIR as they are, for trying other builds.
BIN="${BROKER_BIN_DIR:-${CARGO_TARGET_DIR:-$ROOT/target}/release}"

# Builds the release binaries once; every script that needs them shares this build.
build_release() {
    [[ -z ${BROKER_BIN_DIR:-} ]] || return 0
    [[ -x $BIN/flume-bridge ]] || say "building release binaries (the first build takes some minutes)"
    cargo build --quiet --release --locked -p kiteq -p flume-bridge -p kiteq-bench
}

# start_broker NAME HTTP_PORT FLAG...: returns once the broker says that it is ready. Its pid is in STARTED_PID.
start_broker() {
    local name=$1 http_port=$2
    shift 2
    start_process "$name" "$BIN/kiteq" "$@"
    wait_for 60 "broker \"$name\"" "$STARTED_PID" http_ok "$http_port" /readyz
}

# start_bridge NAME HTTP_PORT FLAG...: returns once the bridge says that it is ready. Its pid is in STARTED_PID.
start_bridge() {
    local name=$1 http_port=$2
    shift 2
    start_process "$name" "$BIN/flume-bridge" -pport="$http_port" "$@"
    wait_for 60 "bridge \"$name\"" "$STARTED_PID" http_ok "$http_port" /readyz
}

# stop_bridge NAME PID: asks it to stop, and has it say that nothing is left undone.
stop_bridge() {
    stop_process "$2" 60 || die "bridge \"$1\" did not stop within 60 s of SIGTERM"
    grep -q 'nothing was left undone' "$WORK_DIR/$1.log" || die "bridge \"$1\" left something undone"
}

# start_redis PORT FLAG...: an empty one with its data below WORK_DIR. Its pid is in STARTED_PID.
start_redis() {
    local port=$1
    shift
    mkdir -p "$WORK_DIR/redis"
    start_process redis redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$WORK_DIR/redis" "$@"
    wait_for 60 "Redis" "$STARTED_PID" redis_serves "$port"
}

# It takes connections before it has read its data.
redis_serves() { [[ $(redis-cli -p "$1" ping) == PONG ]]; }

# start_sink NAME PORT ZOOKEEPER_PORT BUSINESSES FLAG...: a Thrift source of kiteq-bench that registers itself, and writes what it
# takes to WORK_DIR/NAME.received before it says OK. Its pid is in STARTED_PID.
start_sink() {
    local name=$1 port=$2 zookeeper_port=$3 businesses=$4
    shift 4
    start_process "$name" "$BIN/kiteq-bench" flume-sink --listen "127.0.0.1:$port" --zk "127.0.0.1:$zookeeper_port" \
        --businesses "$businesses" --ledger "$WORK_DIR/$name.received" --quiet "$@"
    wait_for 30 "sink \"$name\"" "$STARTED_PID" port_open "$port"
}

# queue_settled REDIS_PORT QUEUE: whether nothing of a queue is waiting, claimed or parked any more.
queue_settled() {
    # The hash of parked businesses keeps its fields; what is parked is in their lists.
    local script="
        local left = redis.call('llen', KEYS[1]) + redis.call('hlen', KEYS[2])
        for _, business in ipairs(redis.call('hkeys', KEYS[3])) do left = left + redis.call('llen', KEYS[3] .. ':' .. business) end
        return left"
    [[ $(redis-cli -p "$1" eval "$script" 3 "$2" "kiteq:{$2}:claims" "kiteq:{$2}:parked") == 0 ]]
}

# start_zookeeper PORT: a real one with its data below WORK_DIR. Leaves STARTED_PID to the caller's next process.
start_zookeeper() {
    zookeeper_settings "$WORK_DIR/zookeeper" 127.0.0.1 "$1" >"$WORK_DIR/zoo.cfg"
    start_process zookeeper env JMXDISABLE=true ZOO_LOG_DIR="$WORK_DIR" \
        /usr/share/zookeeper/bin/zkServer.sh start-foreground "$WORK_DIR/zoo.cfg"
    wait_for 60 "ZooKeeper" "$STARTED_PID" zookeeper_serves "$1"
}

# zookeeper_settings DIRECTORY HOST PORT: prints the settings of a server alone, and makes its directory. Short ticks, so that
# short sessions are granted.
zookeeper_settings() {
    mkdir -p "$1"
    cat <<CONFIG
tickTime=500
dataDir=$1
clientPort=$3
clientPortAddress=$2
admin.enableServer=false
4lw.commands.whitelist=srvr
maxClientCnxns=0
CONFIG
}

# zookeeper_serves PORT [HOST]: it takes connections before it serves them.
zookeeper_serves() {
    local answer
    exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1" || return 1
    printf srvr >&3
    answer="$(timeout 2 cat <&3)" || true
    exec 3>&-
    [[ $answer == *Mode:* ]]
}

# settle_ledger BENCH SECONDS SEED: has a kiteq-bench end publishing, with its output in WORK_DIR/bench.log; an error when acked messages
# are missing, or when it has not ended in time.
settle_ledger() {
    local bench=$1 waited status=0
    say "stopping the producers; the consumers take what is left"
    kill -TERM "$bench"
    for ((waited = 0; waited < 10 * $2; waited++)); do
        kill -0 "$bench" 2>/dev/null || break
        sleep 0.1
    done
    kill -0 "$bench" 2>/dev/null && die "kiteq-bench has not ended $2 s after it was asked to"
    wait "$bench" || status=$?
    cat "$WORK_DIR/bench.log"
    [[ $status -eq 0 ]] || die "messages that were acked are missing, or the run failed (kiteq-bench exit code $status; seed $3)"
}
