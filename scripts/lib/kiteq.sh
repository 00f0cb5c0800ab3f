# The broker and its companions, as the scripts start them. Sourced after process.sh.
# shellcheck shell=bash

# BROKER_BIN_DIR=DIR uses the binaries in DIR as they are, for trying other builds.
BIN="${BROKER_BIN_DIR:-${CARGO_TARGET_DIR:-$ROOT/target}/release}"

# Builds the release binaries once; every script that needs them shares this build.
build_release() {
    [[ -z ${BROKER_BIN_DIR:-} ]] || return 0
    [[ -x $BIN/kiteq ]] || say "building release binaries (the first build takes some minutes)"
    cargo build --quiet --release --locked -p kiteq -p kiteq-bench
}

# start_broker NAME HTTP_PORT FLAG...: returns once the broker says that it is ready. Its pid is in STARTED_PID.
start_broker() {
    local name=$1 http_port=$2
    shift 2
    start_process "$name" "$BIN/kiteq" "$@"
    wait_for 60 "broker \"$name\"" "$STARTED_PID" http_ok "$http_port" /readyz
}

# start_zookeeper PORT: a real one with its data below WORK_DIR. Leaves STARTED_PID to the caller's next process.
start_zookeeper() {
    mkdir -p "$WORK_DIR/zookeeper"
    cat >"$WORK_DIR/zoo.cfg" <<CONFIG
tickTime=500
dataDir=$WORK_DIR/zookeeper
clientPort=$1
clientPortAddress=127.0.0.1
admin.enableServer=false
4lw.commands.whitelist=srvr
maxClientCnxns=0
CONFIG
    start_process zookeeper env JMXDISABLE=true ZOO_LOG_DIR="$WORK_DIR" \
        /usr/share/zookeeper/bin/zkServer.sh start-foreground "$WORK_DIR/zoo.cfg"
    wait_for 60 "ZooKeeper" "$STARTED_PID" zookeeper_serves "$1"
}

# It takes connections before it serves them.
zookeeper_serves() {
    local answer
    exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf srvr >&3
    answer="$(timeout 2 cat <&3)" || true
    exec 3>&-
    [[ $answer == *Mode:* ]]
}
