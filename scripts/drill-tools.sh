#!/usr/bin/env bash
# Installs what some drills break things with, where that is possible: on Debian or Ubuntu, as root. Never fails: a drill that
# lacks its program is inconclusive and names the package.
set -u
declare -A packages=(
  [nft]=nftables          # loss
  [strace]=strace         # slow_disk, fsync_error
  [unshare]=util-linux    # loss, clock_jump, disk_full
  [ip]=iproute2           # loss, clock_jump
)
# What tests of the alerts run; only where asked for (`drill-tools.sh monitoring`): on a machine with systemd the packages start
# services of their own.
if [ "${1:-}" = monitoring ]; then
  packages+=([promtool]=prometheus [prometheus-alertmanager]=prometheus-alertmanager)
fi
missing=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
# clock_jump; a library, not a program.
if ! compgen -G '/usr/lib*/faketime/libfaketimeMT.so.1' >/dev/null && ! compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null; then
  missing+=(libfaketime)
fi
[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  printf 'not installed, so some drills will be inconclusive, or tests skipped: %s (as root: apt-get install %s)\n' "${missing[*]}" "${missing[*]}" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
wait_for_lock=(-o DPkg::Lock::Timeout=60)
if ! { apt-get update -qq "${wait_for_lock[@]}" && apt-get install -y -qq --no-install-recommends "${wait_for_lock[@]}" "${missing[@]}"; } >/dev/null 2>&1; then
  printf 'could not be installed, so some drills will be inconclusive, or tests skipped: %s\n' "${missing[*]}" >&2
fi
exit 0
