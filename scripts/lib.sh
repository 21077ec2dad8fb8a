# Set-up shared by the commands in this folder: Debian packages, Python environments.
# Sourced, never run. Everything that it makes lies in .cache/ of the checkout.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$TOP/.cache
ENVS=$CACHE/env
UV_VERSION=0.13.8
BUILD=(--build-constraints "$TOP/locks/build.txt")  # hashes, verified, of what builds our own wheel
mkdir -p "$ENVS"
unset PYTHONDONTWRITEBYTECODE  # programs that start a thousand times are compiled once

EXTRAS=(admin bdii caso cloud-info cloudkeeper cloudkeeper-os ssm)
SOURCES=("$TOP"/{appliance,bdii,caso,cloud_info_provider,cloudkeeper,ssm})

say() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit "${2:-2}"; }

# step LABEL COMMAND…: runs a command, prints how long it takes (on a terminal every second, so that
# it is seen to be at work) and shows the end of its output if it fails.
step() {
  local label=$1 log started clock= status=0; shift
  log=$(mktemp) started=$SECONDS
  printf '  %-52s ' "$label" >&2
  if [ -t 2 ]; then
    while sleep 1 && [ -e "$log" ] && kill -0 $$ 2>/dev/null; do
      printf '\r  %-52s %4d s' "$label" $((SECONDS - started)) >&2
    done &
    clock=$!
  fi
  "$@" >"$log" 2>&1 || status=$?
  [ -z "$clock" ] || { kill "$clock" && wait "$clock"; } 2>/dev/null ||
    printf '\r  %-52s ' "$label" >&2
  if [ $status = 0 ]; then
    printf '%4d s\n' $((SECONDS - started)) >&2
  else
    printf 'failed (%d)\n' "$status" >&2
    tail -n 40 "$log" >&2
  fi
  rm -f "$log"
  return "$status"
}

# debian PACKAGE…: installs missing packages as root; prints the command for anybody else.
debian() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "missing Debian packages; run: sudo apt-get install ${missing[*]}"
  step "Debian packages: ${missing[*]}" debian_install "${missing[@]}"
}

POLICY=/usr/sbin/policy-rc.d
# A policy of 101 keeps maintainer scripts from starting any service of the host. The trap removes it
# however this shell ends; its words identify one that a killed run left. One installation runs at a
# time, so that each has its policy.
debian_install() (
  words='# Made while scripts/lib.sh of the EGI fedcloud appliance installs packages.'
  export DEBIAN_FRONTEND=noninteractive
  exec 9<"$(dirname "$POLICY")"
  flock 9
  if [ ! -e "$POLICY" ] || grep -qsF "$words" "$POLICY"; then
    trap 'rm -f "$POLICY"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$words" >"$POLICY" && chmod 755 "$POLICY" || exit 1
  fi
  apt-get -qq -o DPkg::Lock::Timeout=300 update 9<&- || true  # the lists that are there may do
  apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@" 9<&-
)

uv() { "$ENVS/uv/bin/uv" --no-progress "$@"; }

python_works() {
  local new='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
  command -v python3 >/dev/null && python3 -c "$new" 2>/dev/null
}

ensure_uv() {
  "$ENVS/uv/bin/uv" --version 2>/dev/null | grep -q "^uv $UV_VERSION\b" && return 0
  python_works || debian python3 python3-venv
  python_works || die "Python 3.11 or newer is needed, found $(python3 --version 2>&1)"
  step "package installer" make_uv
}
make_uv() {
  rm -rf "$ENVS/uv"
  python3 -m venv "$ENVS/uv" &&
    "$ENVS/uv/bin/pip" -q install --disable-pip-version-check --require-hashes --no-deps \
      -r "$TOP/locks/uv.txt"
}

# environment NAME LOCK [ARGUMENT…]: makes a virtual environment with just the packages of the hashed
# LOCK and the ARGUMENTs, installed without dependencies; again when any of them changes.
environment() {
  local name=$1 lock=$2 mark want; shift 2
  mark=$ENVS/$name/.made-from
  # Settings of tools, at the end of pyproject.toml, change no environment.
  want=$(sed '/^\[tool\./,$d' "$TOP/pyproject.toml" | cat "$lock" - | sha256sum; printf '%s ' "$@")
  is_made() { [ -f "$mark" ] && [ "$(cat "$mark")" = "$want" ]; }
  is_made || (
    flock 8  # another command may be making it just now
    is_made && exit 0
    ensure_uv 8>&-
    step "Python environment: $name" make_environment "$name" "$lock" "$@" 8>&- ||
      die "$lock: its packages could not be installed; the first time this needs a package index"
    printf '%s' "$want" >"$mark"
  ) 8>"$ENVS/.lock"
}
# Called by step, where bash goes on after a command that fails: hence the chains.
make_environment() {
  local name=$1 lock=$2; shift 2
  { [ -x "$ENVS/$name/bin/python" ] ||
    uv venv -q --python "$(command -v python3)" "$ENVS/$name"; } &&
    uv pip sync -q --python "$ENVS/$name/bin/python" --require-hashes "$lock" &&
    { [ $# -eq 0 ] ||
      uv pip install -q --python "$ENVS/$name/bin/python" --no-deps "${BUILD[@]}" "$@"; }
}

TEST_PACKAGES=(activemq bzip2 ca-certificates docker-registry glue-schema ldap-utils logrotate nginx
  openssl python3-ldap qemu-utils slapd strace systemd xz-utils zstd)

# What tests of the machine's image need: an emulator, its firmware, and a drive with user data.
VM_PACKAGES=(openssh-client ovmf qemu-system-x86 xorriso)

# What tests of containers and of machines need: an engine's programs, both versions of Compose, the
# images, and the root file system of a machine, made beside them. Only root can have an engine.
CONTAINER_PACKAGES=(docker.io docker-compose iproute2 mmdebstrap tinyproxy-bin)
container_images() {
  local machine compose
  debian "${CONTAINER_PACKAGES[@]}" && ensure_uv || return
  compose_v2 >"$CACHE/compose.log" 2>&1 &
  compose=$!
  env -C "$TOP" "$ENVS/dev/bin/python" -m tests.testbed.vm >"$CACHE/machine.log" 2>&1 &
  machine=$!
  step "container images" env -C "$TOP" "$ENVS/uv/bin/python" -m deploy.images || return
  step "machine for tests" wait $machine || { cat "$CACHE/machine.log" >&2; return 1; }
  step "Compose v2" wait $compose || { cat "$CACHE/compose.log" >&2; return 1; }
}
compose_v2() (
  flock 7  # another command may be fetching it just now
  "$TOP/tests/testbed/compose-v2" "$CACHE/compose-v2"
) 7>"$CACHE/.compose-v2.lock"

dev_environment() { environment dev "$TOP/locks/dev.txt" --editable "$TOP"; }

# One environment for each extra with nothing else, as each container will have it.
isolated_environments() {
  local extra wheel modules
  ensure_uv
  # a list, because a module that was removed is no newer file
  modules=$(cd "$TOP" && find . -path ./.cache -prune -o -name '*.py' -print | sort)
  [ "$modules" = "$(cat "$CACHE/wheel/.modules" 2>/dev/null)" ] || rm -f "$CACHE/wheel/.made"
  if [ ! -f "$CACHE/wheel/.made" ] || [ -n "$(find "${SOURCES[@]}" "$TOP/pyproject.toml" \
    -newer "$CACHE/wheel/.made" -name '*.*' ! -name '*.pyc' -print -quit)" ]; then
    rm -rf "$CACHE/wheel"
    step "wheel" uv build -q --wheel "${BUILD[@]}" --require-hashes --out-dir "$CACHE/wheel" "$TOP"
    printf '%s' "$modules" >"$CACHE/wheel/.modules"
    touch "$CACHE/wheel/.made"
    rm -rf "$ENVS"/only-*
  fi
  wheel=$(echo "$CACHE"/wheel/*.whl)
  for extra in "${EXTRAS[@]}"; do
    environment "only-$extra" "$TOP/locks/$extra.txt" "$wheel"
  done
}
