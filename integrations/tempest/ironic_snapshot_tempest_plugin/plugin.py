# SPDX-License-Identifier: Apache-2.0
"""What tempest finds by the entry point."""

import pathlib
from typing import Any

from tempest import config
from tempest.test_discover import plugins

from ironic_snapshot_tempest_plugin.config import GROUP, OPTS

_HERE = pathlib.Path(__file__).parent


class IronicSnapshotPlugin(plugins.TempestPlugin):
    """See :class:`tempest.test_discover.plugins.TempestPlugin`."""

    def load_tests(self) -> tuple[str, str]:
        """Return where the tests are, and the directory of the package."""
        return str(_HERE / "tests"), str(_HERE.parent)

    def register_opts(self, conf: Any) -> None:
        """Register the options."""
        conf.register_group(GROUP)
        conf.register_opts(OPTS, group=GROUP)

    def get_opt_lists(self) -> list[tuple[str, list[Any]]]:
        """Return the options, for a sample of the configuration."""
        return [(GROUP.name, OPTS)]

    def get_service_clients(self) -> list[dict[str, Any]]:
        """Return the client of Ironic; tests have it as ``os_*.baremetal_snapshot``."""
        return [
            {
                "name": "baremetal_snapshot",
                "service_version": "baremetal.snapshot",
                "module_path": "ironic_snapshot_tempest_plugin.services",
                "client_names": ["BaremetalClient"],
                **config.service_client_config(GROUP.name),
            }
        ]
