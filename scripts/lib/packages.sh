# Debian packages and toolchains: installed when missing, with a clear word when that cannot be done.
# Sourced after common.sh.
# shellcheck shell=bash

# Runs a command as root, or says which command a person has to run.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo that works without a terminal. Run as root: $*"
    fi
}

package_installed() { [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]; }

# need_packages PURPOSE PACKAGE...: installs the packages that are not there.
need_packages() {
    local purpose=$1 package missing=()
    shift
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        die "$purpose needs what Debian calls: $*. This system has no apt-get; install them its own way and run this again"
    fi
    for package in "$@"; do
        package_installed "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    say "installing ${missing[*]} ($purpose)"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    # The package lists of a fresh machine are empty or old.
    as_root "${apt[@]}" update >&2 || warn "apt-get update failed; trying with the package lists that are there"
    as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null </dev/null ||
        die "could not install ${missing[*]}, which $purpose needs. Try: apt-get update && apt-get install ${missing[*]}"
}

# Cargo is assumed; a linker is not.
need_rust_build() {
    command -v cargo >/dev/null || die "no cargo on PATH or in ~/.cargo/bin: install a Rust toolchain (https://rustup.rs)"
    if ! command -v cc >/dev/null || [[ ! -e /usr/include/stdio.h ]]; then
        need_packages "building Rust programs" gcc libc6-dev
    fi
}

# ZooKeeper's own start script, which the tests and scripts/interop run.
need_zookeeper() {
    if [[ ! -x /usr/share/zookeeper/bin/zkServer.sh ]] || ! command -v java >/dev/null; then
        need_packages "running against a real ZooKeeper" zookeeper default-jre-headless
    fi
}

# need_server PURPOSE PACKAGE SERVICE: a server's programs, for whoever starts one of their own. The package's service is kept from
# starting, now and with the machine.
need_server() {
    local purpose=$1 package=$2 service=$3 policy=/usr/sbin/policy-rc.d is_ours='' status=0
    # Debian's way to keep packages from starting services.
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" && is_ours=1
    fi
    (need_packages "$purpose" "$package") || status=$?
    [[ -z $is_ours ]] || as_root rm -f "$policy"
    [[ $status -eq 0 ]] || exit "$status"
    if command -v systemctl >/dev/null && [[ -d /run/systemd/system ]]; then
        as_root systemctl disable --now --quiet "$service" || warn "$service.service could not be disabled; it starts with the machine"
    fi
}

need_etcd() { command -v etcd >/dev/null || need_server "running against a real etcd" etcd-server etcd; }

need_redis() { command -v redis-server >/dev/null || need_server "running against a real Redis" redis-server redis-server; }

need_mariadb() {
    { command -v mariadbd >/dev/null || [[ -x /usr/sbin/mariadbd ]]; } && command -v mariadb-install-db >/dev/null ||
        need_server "running against a real MariaDB" mariadb-server mariadb
}

# The compiler behind scripts/generate-thrift.
need_thrift_compiler() {
    command -v thrift >/dev/null || need_packages "generating Thrift code" thrift-compiler
}
