# What every script here starts with: strict mode, the repository's root as working directory, words for people.
# Sourced, never run.
# shellcheck shell=bash

set -Eeuo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export ROOT
cd "$ROOT"

# Toolchains are often installed for a login shell only; a script run by a service does not have them on its PATH.
for directory in "${CARGO_HOME:-$HOME/.cargo}/bin" /usr/local/cargo/bin /usr/local/go/bin; do
    if [[ -d $directory && ":$PATH:" != *":$directory:"* ]]; then
        PATH="$directory:$PATH"
    fi
done
export PATH

if [[ -t 2 ]]; then
    BOLD=$'\e[1m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
    BOLD='' RED='' PLAIN=''
fi

# One line about what happens now.
say() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }

# One line that must not be overlooked.
warn() { printf '%s!!! %s%s\n' "$RED" "$*" "$PLAIN" >&2; }

# Says what is wrong and what to do, and ends the script.
die() {
    warn "$*"
    exit 1
}

# Prints the comment at the top of the running script, from its second line to the first line that is no comment.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# The value that follows an option: option_value --rounds "$@" within a parsing loop.
option_value() {
    [[ $# -ge 3 ]] || die "$1 needs a value; see $0 --help"
    printf '%s\n' "$3"
}

# A whole number within bounds: check_number --rounds VALUE MIN MAX
check_number() {
    if ! [[ $2 =~ ^[0-9]{1,9}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
        die "$1 is a whole number from $3 to $4, not \"$2\""
    fi
}
