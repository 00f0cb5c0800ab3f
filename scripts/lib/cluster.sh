# A cluster on this machine: three brokers, one registry, one MariaDB. Sourced after process.sh and kiteq.sh.
# shellcheck shell=bash

# What runs, and how, stands in files below CLUSTER_DIR, so that one command can start it and the next one break it:
#   settings     how the cluster was started
#   NODE.pid     process id of a node, and when that process began (ids are used again)
#   NODE.log     what it printed
#   NODE.cut     what it is cut off from
CLUSTER_DIR=''
BROKERS=(broker-a broker-b broker-c)
NODES=(registry mariadb "${BROKERS[@]}")

# In settings.
REGISTRY_KIND=zk NETNS='' TAKEOVER_GRACE=5s
# Whether the namespaces that are there are this cluster's: there may be another one's.
MADE_NAMESPACES=''
declare -A HOSTS=() PORTS=()

# MariaDB's cache.
MARIADB_POOL=256M

# What listens, with the port that it has in a namespace of its own; without namespaces ports are chosen.
declare -A NODE_PORTS=([registry]=2181 [registry-peer]=2380 [mariadb]=3306
    [broker-a]=13800 [broker-a-http]=13801 [broker-b]=13800 [broker-b-http]=13801 [broker-c]=13800 [broker-c-http]=13801)

# With --netns every broker lives in a network namespace of its own, so that it can be cut off from the registry, from the
# database or from everything. They meet on a bridge in one more namespace, where the registry, the database and the clients
# are, each at an address of its own.
HUB=kiteq-hub
HUB_HOST=10.213.0.1

open_cluster_dir() {
    CLUSTER_DIR=$1
    mkdir -p "$CLUSTER_DIR"
    # Where start_process puts logs.
    WORK_DIR=$CLUSTER_DIR
}

# Assignments, and no declare: what load_settings reads them in is a function, where declare makes local variables.
save_settings() {
    local node
    {
        printf '%s=%q\n' REGISTRY_KIND "$REGISTRY_KIND" NETNS "$NETNS" TAKEOVER_GRACE "$TAKEOVER_GRACE" MADE_NAMESPACES "$MADE_NAMESPACES"
        for node in "${NODES[@]}"; do
            printf 'HOSTS[%s]=%q\n' "$node" "${HOSTS[$node]}"
        done
        for node in "${!NODE_PORTS[@]}"; do
            printf 'PORTS[%s]=%q\n' "$node" "${PORTS[$node]}"
        done
    } >"$CLUSTER_DIR/settings"
}

load_settings() {
    # shellcheck source=/dev/null
    source "$CLUSTER_DIR/settings"
}

# namespace_of NODE: the namespace that it lives in.
namespace_of() {
    case $1 in
        broker-*) echo "kiteq-$1" ;;
        *) echo "$HUB" ;;
    esac
}

# in_namespace NAMESPACE COMMAND...: there, or here when the cluster has no namespaces.
in_namespace() {
    local namespace=$1
    shift
    if [[ -n $NETNS ]]; then
        ip netns exec "$namespace" "$@"
    else
        "$@"
    fi
}

# Where clients are.
in_hub() { in_namespace "$HUB" "$@"; }

make_namespaces() {
    local node namespace
    [[ $(id -u) -eq 0 ]] || die "network namespaces need root: run this as root, or without --netns (partition then freezes a broker)"
    command -v ip >/dev/null || need_packages "network namespaces" iproute2
    if ip netns list | grep -qw "$HUB"; then
        die "namespace $HUB is there already: a cluster with namespaces runs (stop it with $ROOT/scripts/cluster stop), or a killed one left it: ip netns list | grep -o '^kiteq-[a-z-]*' | xargs -n 1 ip netns delete"
    fi
    ip netns add "$HUB" || die "this machine does not let network namespaces be made; run without --netns"
    MADE_NAMESPACES=yes
    ip -n "$HUB" link set lo up
    # Without an address of its own it has that of one of its ports, and another one when that port goes: nobody would reach
    # anybody for a while.
    ip -n "$HUB" link add bridge0 address 02:00:00:00:00:01 type bridge
    ip -n "$HUB" link set bridge0 up
    # The first address is the one that clients speak from.
    ip -n "$HUB" address add "$HUB_HOST/24" dev bridge0
    for node in registry mariadb; do
        ip -n "$HUB" address add "${HOSTS[$node]}/24" dev bridge0
    done
    for node in "${BROKERS[@]}"; do
        namespace="$(namespace_of "$node")"
        ip netns add "$namespace"
        ip -n "$namespace" link set lo up
        ip -n "$HUB" link add "$node" type veth peer name eth0 netns "$namespace"
        ip -n "$HUB" link set "$node" master bridge0 up
        ip -n "$namespace" link set eth0 up
        ip -n "$namespace" address add "${HOSTS[$node]}/24" dev eth0
    done
}

remove_namespaces() {
    local node
    [[ -n $MADE_NAMESPACES ]] || return 0
    for node in "${BROKERS[@]}" registry; do
        ip netns delete "$(namespace_of "$node")" 2>/dev/null || true
    done
}

# When a process began, in ticks since the machine did: with its id it names one process for good.
began() {
    local fields
    # The second field is the program's name in brackets, which may hold anything.
    fields="$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null)" || return 1
    cut -d ' ' -f 20 <<<"$fields"
}

# pid_of NODE: its process id; fails when it does not run.
pid_of() {
    local pid start
    read -r pid start 2>/dev/null <"$CLUSTER_DIR/$1.pid" || return 1
    [[ $(began "$pid") == "$start" ]] || return 1
    echo "$pid"
}

runs() { pid_of "$1" >/dev/null; }

# launch NODE COMMAND...
launch() {
    local node=$1 command=()
    shift
    [[ -z $NETNS ]] || command=(ip netns exec "$(namespace_of "$node")")
    start_process "$node" "${command[@]}" "$@"
    echo "$STARTED_PID $(began "$STARTED_PID")" >"$CLUSTER_DIR/$node.pid"
}

registry_uri() {
    case $REGISTRY_KIND in
        zk) echo "zk://${HOSTS[registry]}:${PORTS[registry]}" ;;
        etcd) echo "etcd://http://${HOSTS[registry]}:${PORTS[registry]}" ;;
    esac
}

store_uri() { echo "mysql://${HOSTS[mariadb]}:${PORTS[mariadb]}?db=kite&username=kiteq&password=kiteq&shardnum=4&maxConn=12"; }

# in_node NODE FUNCTION ARGUMENT...: runs a function of these scripts where the node lives, so that a broker that is cut off can be
# asked too.
in_node() {
    local node=$1 function=$2
    shift 2
    in_namespace "$(namespace_of "$node")" bash -c "$(declare -f "$function"); $function \"\$@\"" "$function" "$@"
}

answers() { in_node "$1" port_open "${PORTS[$1]}" "${HOSTS[$1]}"; }

ready() { in_node "$1" http_ok "${PORTS[$1-http]}" /readyz "${HOSTS[$1]}"; }

# stat_of BROKER: its /stat.
stat_of() { in_node "$1" http_body "${PORTS[$1-http]}" /stat "${HOSTS[$1]}"; }

start_mariadb() {
    local data="$CLUSTER_DIR/mariadb" run_as=()
    [[ $(id -u) -ne 0 ]] || run_as=(--user=root)
    if [[ ! -d $data/mysql ]]; then
        TMPDIR="$CLUSTER_DIR" mariadb-install-db --no-defaults --datadir="$data" --auth-root-authentication-method=normal --skip-test-db --force \
            "${run_as[@]}" >"$CLUSTER_DIR/mariadb-install.log" 2>&1 || die "mariadb-install-db failed: see $CLUSTER_DIR/mariadb-install.log"
        cat >"$CLUSTER_DIR/mariadb-init.sql" <<'SQL'
CREATE USER IF NOT EXISTS kiteq@'%' IDENTIFIED BY 'kiteq';
GRANT ALL ON *.* TO kiteq@'%';
SQL
    fi
    # Servers remove whatever temporary tables they find when they start: those of others are elsewhere.
    launch mariadb env TMPDIR="$CLUSTER_DIR" "$(command -v mariadbd || echo /usr/sbin/mariadbd)" --no-defaults --datadir="$data" \
        --socket="$CLUSTER_DIR/mariadb.sock" --pid-file="$CLUSTER_DIR/mariadb.own-pid" --port="${PORTS[mariadb]}" \
        --bind-address="${HOSTS[mariadb]}" --skip-name-resolve --skip-log-error --init-file="$CLUSTER_DIR/mariadb-init.sql" \
        --innodb-buffer-pool-size="$MARIADB_POOL" --innodb-log-file-size=128M --performance-schema=off "${run_as[@]}"
    wait_for 60 "MariaDB" "$STARTED_PID" answers mariadb
}

start_registry() {
    local address="${HOSTS[registry]}:${PORTS[registry]}" peers
    mkdir -p "$CLUSTER_DIR/registry"
    case $REGISTRY_KIND in
        zk)
            zookeeper_settings "$CLUSTER_DIR/registry" "${HOSTS[registry]}" "${PORTS[registry]}" >"$CLUSTER_DIR/zoo.cfg"
            launch registry env JMXDISABLE=true ZOO_LOG_DIR="$CLUSTER_DIR" \
                /usr/share/zookeeper/bin/zkServer.sh start-foreground "$CLUSTER_DIR/zoo.cfg"
            wait_for 60 "ZooKeeper" "$STARTED_PID" in_node registry zookeeper_serves "${PORTS[registry]}" "${HOSTS[registry]}"
            ;;
        etcd)
            # It has no peers, and listens for them all the same.
            peers="http://${HOSTS[registry]}:${PORTS[registry-peer]}"
            launch registry etcd --name one --data-dir "$CLUSTER_DIR/registry" --log-level warn --logger zap --log-outputs stderr \
                --listen-client-urls "http://$address" --advertise-client-urls "http://$address" \
                --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" --initial-cluster "one=$peers" \
                --heartbeat-interval 50 --election-timeout 500
            wait_for 60 "etcd" "$STARTED_PID" answers registry
            ;;
    esac
}

# launch_broker NODE: does not wait until it is ready: what it needs may be away.
launch_broker() {
    local node=$1 host=${HOSTS[$1]}
    launch "$node" "$BIN/kiteq" --bind="$host:${PORTS[$node]}" --http="$host:${PORTS[$node-http]}" --registry="$(registry_uri)" \
        --store="$(store_uri)" --topics=trade,feed,bench-e2e,bench-backlog --data-dir="$CLUSTER_DIR/$node" --recover-seconds=2 \
        --takeover-grace="$TAKEOVER_GRACE"
}

# start_node NODE: returns when it is ready.
start_node() {
    heal_node "$1"
    case $1 in
        registry) start_registry ;;
        mariadb) start_mariadb ;;
        *)
            launch_broker "$1"
            wait_for 60 "$1" "$STARTED_PID" ready "$1"
            ;;
    esac
}

# kill_node NODE: SIGKILL. A frozen one dies too.
kill_node() {
    local pid
    pid="$(pid_of "$1")" || return 0
    kill_process "$pid"
    until_gone "$1" 10
}

# leave_node NODE: SIGTERM: a broker hands its messages over.
leave_node() {
    local pid
    pid="$(pid_of "$1")" || return 0
    heal_node "$1"
    kill -TERM "$pid"
    until_gone "$1" 60
}

until_gone() {
    local deadline=$((SECONDS + $2))
    while runs "$1"; do
        ((SECONDS < deadline)) || die "$1 has not ended within $2 s"
        sleep 0.05
    done
}

# partition_node NODE all|registry|mariadb: no packet of a broker reaches the others, the registry or the database any more, and
# nobody is told: connections hang. Without namespaces only "all", by freezing the broker.
partition_node() {
    local node=$1 from=$2 pid
    pid="$(pid_of "$node")" || die "$node does not run"
    if [[ -z $NETNS ]]; then
        [[ $from == all ]] || die "cutting a broker off from the $from alone needs network namespaces: start the cluster with --netns"
        kill -STOP "$pid"
    elif [[ $from == all ]]; then
        ip -n "$HUB" link set "$node" nomaster
    else
        ip -n "$(namespace_of "$node")" route replace blackhole "${HOSTS[$from]}/32"
    fi
    echo "$from" >"$CLUSTER_DIR/$node.cut"
}

heal_node() {
    local node=$1 from pid
    from="$(cat "$CLUSTER_DIR/$node.cut" 2>/dev/null)" || return 0
    if [[ -z $NETNS ]]; then
        ! pid="$(pid_of "$node")" || kill -CONT "$pid"
    elif [[ $from == all ]]; then
        ip -n "$HUB" link set "$node" master bridge0
    else
        ip -n "$(namespace_of "$node")" route delete blackhole "${HOSTS[$from]}/32"
    fi
    rm -f "$CLUSTER_DIR/$node.cut"
}

# choose_addresses: what NETNS asks for.
choose_addresses() {
    local node port number=10
    PORTS=()
    for node in "${!NODE_PORTS[@]}"; do
        port=${NODE_PORTS[$node]}
        if [[ -z $NETNS ]]; then
            # Free, and not given to another node just now.
            until port="$(free_port)" && [[ " ${PORTS[*]} " != *" $port "* ]]; do :; done
        fi
        PORTS[$node]=$port
    done
    for node in "${NODES[@]}"; do
        HOSTS[$node]=127.0.0.1
        [[ -z $NETNS ]] || HOSTS[$node]=10.213.0.$((++number))
    done
}

# start_cluster: as REGISTRY_KIND, NETNS and TAKEOVER_GRACE say.
start_cluster() {
    local node
    choose_addresses
    [[ -z $NETNS ]] || make_namespaces
    save_settings
    for node in "${NODES[@]}"; do
        start_node "$node"
    done
}

# The brokers first: they must not lose what they hand over to.
stop_cluster() {
    local node
    for node in "${BROKERS[@]}"; do
        leave_node "$node"
    done
    for node in mariadb registry; do
        leave_node "$node"
    done
    remove_namespaces
}

# What a cluster needs on this machine.
need_cluster() {
    need_rust_build
    need_mariadb
    case $REGISTRY_KIND in
        zk) need_zookeeper ;;
        etcd) need_etcd ;;
    esac
    build_release
}
