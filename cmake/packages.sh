#!/usr/bin/env bash
# Installs the Debian packages a step needs, and only those that are missing.
# usage: bash cmake/packages.sh run|test|full
set -euo pipefail

packages=(build-essential cmake ninja-build pkg-config libeigen3-dev libsentencepiece-dev
          nlohmann-json3-dev libcli11-dev libssl-dev libedit-dev)
case "${1:-run}" in
  run) ;;
  test | full)
    packages+=(catch2 libbenchmark-dev clang libclang-rt-14-dev python3 python3-numpy)
    ;;&
  full) packages+=(llvm g++-aarch64-linux-gnu qemu-user-static python3-venv fortunes-zh bible-kjv) ;;
esac

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}" >&2
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "missing packages: ${missing[*]}; install them, or run as root or with sudo" >&2; exit 1; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
