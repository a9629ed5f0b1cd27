# SPDX-License-Identifier: Apache-2.0
"""What a test needs of the Ironic that was selected: see tests.lab.releases."""

import pytest

from tests.lab.releases import RELEASES

needs_recovery = pytest.mark.skipif(
    not RELEASES.recovers, reason="this Ironic knows no way out of a service that failed"
)
lacks_recovery = pytest.mark.skipif(
    RELEASES.recovers, reason="this Ironic can abort a service that failed"
)
needs_timeout = pytest.mark.skipif(
    not RELEASES.times_out, reason="this Ironic waits for a ramdisk for ever"
)
needs_restricted_lookup = pytest.mark.skipif(
    bool(RELEASES.ironic_config), reason="this Ironic has to answer agents that come too early"
)
