# SPDX-License-Identifier: Apache-2.0
"""A connection to Glance with the account of the conductor's section ``[glance]``."""

from ironic.common import exception, keystone
from openstack.connection import Connection

from conductor_client import errors


def connect() -> Connection:
    """Return a connection.

    Not Ironic's own GlanceImageService: after the first heartbeat a task's context is not the
    requester's any more, and with it Ironic 39 refuses images of other projects.

    :raises: UploadFailed
    """
    try:
        auth = keystone.get_auth("glance")
        session = keystone.get_session("glance", auth=auth)
        endpoint = keystone.get_endpoint("glance", session=session, auth=auth)
    except exception.IronicException as exc:
        raise errors.UploadFailed("the section [glance] gives no access: %s" % exc) from exc
    return Connection(session=session, image_endpoint_override=endpoint)
