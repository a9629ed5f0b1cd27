#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Build the agent's ramdisk with the element ipa-snapshot, as root, on Debian 12: its files are
# printed, and kept in .cache/ramdisk until something that it is made of changes.

set -euo pipefail
cd "$(dirname "$0")/.."

missing=$(.venv/bin/bindep --brief machine || true)
if [[ -n $missing ]]; then
    echo "ramdisk: installing the distribution packages" $missing >&2
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing \
        >/dev/null
fi
exec .venv/bin/python -m tests.machine.ramdisk "$@"
