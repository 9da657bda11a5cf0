#!/usr/bin/env bash
# install_chromium.sh : Debian's Chromium for the tests of the pages, where that can be done; elsewhere say so and let them skip.
set -uo pipefail
for program in chromium chromium-browser google-chrome google-chrome-stable; do
  command -v "$program" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no Chromium here, and it is installed only as root with apt: its tests are skipped"; exit 0
fi
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
{ apt-get update; apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends chromium fonts-dejavu-core; } \
  </dev/null >"$log" 2>&1 || { tail -n 5 "$log"; echo "Chromium could not be installed: its tests are skipped"; }
rm -f "$log"
