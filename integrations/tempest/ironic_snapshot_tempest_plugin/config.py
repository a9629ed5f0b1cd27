# SPDX-License-Identifier: Apache-2.0
"""The options of the section ``[ironic_snapshot]`` of tempest.conf."""

from oslo_config import cfg

GROUP = cfg.OptGroup("ironic_snapshot", title="Snapshots of bare-metal nodes")

OPTS = [
    cfg.StrOpt("catalog_type", default="baremetal", help="The type of Ironic in the catalog."),
    cfg.StrOpt(
        "region", default="", help="Ironic's region; that of the section [identity] if empty."
    ),
    cfg.StrOpt(
        "endpoint_type",
        default="public",
        choices=["public", "admin", "internal", "publicURL", "adminURL", "internalURL"],
        help="Which endpoint of Ironic to use.",
    ),
    cfg.StrOpt(
        "node",
        help="The UUID or name of an active node that is for these tests alone. Its conductor must "
        "take snapshots: by the interface 'snapshot_interface' and the verb 'snapshot', or by the "
        "vendor interface 'snapshot' and service steps. Without it nothing is tested.",
    ),
    cfg.ListOpt(
        "spare_nodes",
        default=[],
        help="The UUIDs or names of available nodes, similar to the one above and for these tests "
        "alone: images of it are deployed to them, and they are undeployed again. Without them "
        "what is done with an image is not tested.",
    ),
    cfg.IntOpt("poll_interval", default=5, min=1, help="Seconds between two looks at a node."),
    cfg.IntOpt("snapshot_timeout", default=3600, help="How long a snapshot may take, in seconds."),
    cfg.IntOpt("deploy_timeout", default=3600, help="How long a deployment may take, in seconds."),
    cfg.IntOpt(
        "callback_timeout",
        default=0,
        help="After how many seconds the conductor gives up a ramdisk that is not heard of: "
        "[conductor]snapshot_callback_timeout, or service_callback_timeout where snapshots are "
        "service steps. 0: that is not tested, since it may take half an hour.",
    ),
    cfg.StrOpt(
        "upload_project",
        help="The ID of the project with whose account the conductor uploads, that of its section "
        "[glance]: Glance counts the upload against the quota of that one, whose limit is lowered "
        "for a test, and images are shared with it before they are deployed. Without it, quotas "
        "are not tested, and images are deployed as they are: private.",
    ),
    cfg.StrOpt(
        "storage_break_command",
        help="A command (no shell) after which the intermediate storage takes no more data. "
        "Without it, a storage that refuses is not tested.",
    ),
    cfg.StrOpt("storage_mend_command", help="A command (no shell) after which it does again."),
    cfg.StrOpt(
        "machine_cut_command",
        help="A command (no shell) after which the machine of the node is without power, or cannot "
        "be reached, until Ironic has it reboot. Without it, a machine that dies in mid-snapshot "
        "is not tested.",
    ),
]
