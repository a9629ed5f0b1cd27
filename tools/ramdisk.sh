#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Build the agent's ramdisk with the element ipa-snapshot, as root, on Debian 12: its files are
# printed, and kept in .cache/ramdisk until something that it is made of changes.

set -euo pipefail
cd "$(dirname "$0")/.."

# It fails if one is missing, and if it fails itself: then it does so again.
if ! missing=$(.venv/bin/bindep --brief machine); then
    echo "ramdisk: installing the distribution packages" $missing >&2
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing \
        >/dev/null
    .venv/bin/bindep --brief machine
fi
exec .venv/bin/python -m tests.machine.ramdisk "$@"
