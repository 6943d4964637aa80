#!/usr/bin/env bash
# Makes what the project needs on a Debian or Ubuntu system: system packages, and .venv with the
# project in it, editable. Quick and silent when everything is in place.
#
#   scripts/setup.sh      what it takes to run capd
#   scripts/setup.sh dev  and to check and test it
#
# Run it, from any directory; don't source it.
set -euo pipefail

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# Runs a slow step: says what it does, and shows its output only if it fails.
step() {
    local what="$1" output
    shift
    printf 'setup: %s\n' "$what" >&2
    if ! output="$("$@" 2>&1 </dev/null)"; then
        printf '%s\n' "$output" >&2
        fail "failed: $what"
    fi
}

mode="${1:-run}"
case "$mode" in
    run) extras="" ;;
    dev) extras="[dev]" ;;
    *) fail "usage: setup.sh [dev]" ;;
esac

root="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)"
venv="$root/.venv"
cd -- "$root"
# Root may set up what other users then run, whatever root's own umask.
umask 022

# --- System packages ---

# The system's Python comes first: one in somebody's home directory, however it got into PATH, may
# be out of reach of other users, and so would be a .venv made with it.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Where a .venv was made is on record in it: its programs have that path in them, so after a move,
# or in a copy, they would run the other checkout's code.
venv_is_usable() {
    "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
        [[ ! -e "$venv/.capd-root" || "$(<"$venv/.capd-root")" == "$root" ]]
}

has() {
    command -v "$1" >/dev/null
}

# Prints each program that is needed, and its Debian package.
needed_programs() {
    cat <<'PROGRAMS'
ip iproute2
unshare util-linux
PROGRAMS
    [[ "$mode" != dev ]] || cat <<'PROGRAMS'
capinfos tshark
curl curl
dbus-daemon dbus
dbus-monitor dbus
dropbear dropbear-bin
dropbearkey dropbear-bin
editcap tshark
ethtool ethtool
groff groff-base
mergecap tshark
mkfs.ext4 e2fsprogs
mount mount
netsniff-ng netsniff-ng
nft nftables
nsenter util-linux
setpriv util-linux
ss iproute2
ssh openssh-client
ssh-keygen openssh-client
systemctl systemd
tcpdump tcpdump
tshark tshark
zstd zstd
/etc/protocols netbase
/etc/services netbase
/lib/systemd/system/dbus.service dbus
/lib/systemd/systemd systemd
PROGRAMS
}

# dumpcap, which comes with tshark, is not tried: it may be there for the group wireshark only.
has_program() {
    if [[ "$1" == /* ]]; then [[ -e "$1" ]]; else has "$1"; fi
}

# Prints the Debian packages that are needed and not there, found by trying what they are for:
# that also accepts what was installed in some other way.
missing_packages() {
    local python
    if ! python="$(find_python)"; then
        # libpcap can't be tried without Python; to install it twice does no harm.
        printf '%s\n' python3 python3-venv libpcap0.8
    else
        # The standard library's part that makes a .venv is a package of its own, one per version.
        venv_is_usable || "$python" -c 'import ensurepip' 2>/dev/null ||
            "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
        # Releases that call the package libpcap0.8t64 know it by this name as well.
        "$python" - <<'PYTHON' || echo libpcap0.8
import ctypes, sys
for name in "libpcap.so.0.8", "libpcap.so.1":  # Debian's name for it, and everybody else's
    try:
        ctypes.CDLL(name)
    except OSError:
        continue
    sys.exit(0)
sys.exit(1)
PYTHON
    fi
    local program package
    while read -r program package; do
        has_program "$program" || echo "$package"
    done < <(needed_programs) | sort -u
}

apt() {
    # A new machine may be busy with its own first update: wait for it.
    DEBIAN_FRONTEND=noninteractive apt-get --yes --option DPkg::Lock::Timeout=300 "$@"
}

apt_install() {
    # Package lists may be absent, or so old that what they list is gone: fetch them and try again.
    apt install --no-install-recommends "$@" ||
        { apt update && apt install --no-install-recommends "$@"; }
}

mapfile -t packages < <(missing_packages)
if ((${#packages[@]})); then
    while read -r program package; do
        has_program "$program" || printf 'setup: there is no %s (package %s)\n' "$program" "$package" >&2
    done < <(needed_programs)
    if ((EUID != 0)) || ! has apt-get; then
        fail "system packages are missing; as root, run:" \
            "apt-get install --no-install-recommends ${packages[*]}"
    fi
    step "installing ${packages[*]}" apt_install "${packages[@]}"
    mapfile -t packages < <(missing_packages)
    if ((${#packages[@]})); then
        fail "installed, but still missing or too old (Python must be 3.11 or newer): ${packages[*]}"
    fi
fi

# --- .venv ---

if ! venv_is_usable; then
    step "making .venv" "$(find_python)" -m venv --clear "$venv"
    printf '%s\n' "$root" >"$venv/.capd-root"
fi

# What .venv was last filled from, for each mode. Templates are copied into it, not linked.
wanted="$(find pyproject.toml systemd docs/man -type f -exec sha256sum {} +)"
if [[ "$(cat "$venv/.capd-$mode" 2>/dev/null)" != "$wanted" ]]; then
    step "installing the project and its dependencies into .venv" \
        "$venv/bin/python" -m pip install --disable-pip-version-check --editable ".$extras"
    printf '%s\n' "$root" >"$venv/.capd-root"
    printf '%s\n' "$wanted" >"$venv/.capd-$mode"
    # With dev, all that run asks for is there, too.
    printf '%s\n' "$wanted" >"$venv/.capd-run"
fi
