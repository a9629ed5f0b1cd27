#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Snapshots of the disk of a node with an instance on it.

The node boots the ramdisk as for a service; the snapshot interface then takes
the snapshot, and the instance is brought back, however that ends.
"""

from oslo_log import log

from ironic.common import exception
from ironic.common.i18n import _
from ironic.common import states
from ironic.conductor import task_manager
from ironic.conductor import utils

LOG = log.getLogger(__name__)

# In driver_internal_info from the request until the snapshot is begun.
IMAGE_REF = 'snapshot_image_ref'
# In driver_internal_info as long as boot device, networks and power of the
# node may not be as its instance has them: 'tried' once that failed to bring
# them back, else True.
RAMDISK = 'snapshot_ramdisk'


def validate(task, image_ref):
    """Make sure that a snapshot can be begun.

    :param task: a TaskManager instance.
    :param image_ref: where the snapshot is to go.
    :raises: InvalidParameterValue, UnsupportedDriverExtension,
        ServiceUnavailable
    """
    try:
        task.driver.power.validate(task)
        task.driver.network.validate(task)
        task.driver.snapshot.validate(task)
        task.driver.snapshot.validate_image_ref(task, image_ref)
    except exception.InvalidParameterValue as e:
        raise exception.InvalidParameterValue(
            _('Validation of node %(node)s for a snapshot failed: %(err)s') %
            {'node': task.node.uuid, 'err': e})


@task_manager.require_exclusive_lock
def do_node_snapshot(task, image_ref):
    """Boot the ramdisk on the task's node, and wait for it.

    :param task: a TaskManager instance with an exclusive lock on its node
    :param image_ref: where the snapshot is to go.
    """
    node = task.node
    # Of an earlier ramdisk, which an agent is not to be taken for.
    utils.wipe_token_and_url(task)
    node.set_driver_internal_info(IMAGE_REF, image_ref)
    node.save()
    try:
        task.driver.deploy.switch_interface(task)
        node.set_driver_internal_info(RAMDISK, True)
        node.save()
        result = task.driver.deploy.prepare_service(task)
        if result is None:
            # This deploy interface needs no ramdisk.
            _begin(task)
        else:
            task.process_event('wait')
    except Exception as e:
        error_handler(task,
                      _('Failed to begin the snapshot of node %(node)s: '
                        '%(err)s') % {'node': node.uuid, 'err': e},
                      traceback=True)


@task_manager.require_exclusive_lock
def process_heartbeat(task):
    """Begin the snapshot with the ramdisk's first heartbeat.

    :param task: a TaskManager instance with an exclusive lock on its node,
        which is in SNAPSHOTWAIT.
    """
    node = task.node
    node.touch_provisioning()
    if IMAGE_REF not in node.driver_internal_info:
        # The snapshot interface follows it.
        return
    try:
        task.process_event('resume')
        _begin(task)
    except Exception as e:
        error_handler(task,
                      _('Failed to begin the snapshot of node %(node)s: '
                        '%(err)s') % {'node': node.uuid, 'err': e},
                      traceback=True)


def _begin(task):
    node = task.node
    image_ref = node.del_driver_internal_info(IMAGE_REF)
    node.save()
    result = task.driver.snapshot.snapshot(task, image_ref)
    if result == states.SNAPSHOTWAIT:
        task.process_event('wait')
    elif result in (None, states.ACTIVE):
        finish(task)
    else:
        raise exception.InvalidParameterValue(
            _('the snapshot interface returned %s') % result)


@task_manager.require_exclusive_lock
def finish(task):
    """Bring the instance back after its snapshot.

    :param task: a TaskManager instance with an exclusive lock on its node,
        which is in SNAPSHOTTING.
    """
    node = task.node
    try:
        _bring_instance_back(task)
    except Exception as e:
        error_handler(task,
                      _('The snapshot of node %(node)s is taken, and its '
                        'instance is not back: %(err)s') %
                      {'node': node.uuid, 'err': e},
                      traceback=True, bring_back=False)
        return
    LOG.info('Snapshot of node %s complete.', node.uuid)
    task.process_event('done')


def _bring_instance_back(task):
    node = task.node
    if RAMDISK in node.driver_internal_info:
        try:
            task.driver.deploy.tear_down_service(task)
        except Exception:
            node.set_driver_internal_info(RAMDISK, 'tried')
            node.save()
            raise
        _wipe_internal_info(task)
    task.driver.deploy.restore_interface(task)


def _wipe_internal_info(task):
    node = task.node
    utils.wipe_token_and_url(task)
    for key in (IMAGE_REF, RAMDISK, 'agent_cached_service_steps',
                'agent_start_attempted'):
        node.del_driver_internal_info(key)
    node.save()


@task_manager.require_exclusive_lock
def error_handler(task, logmsg, errmsg=None, traceback=False,
                  bring_back=True, set_fail_state=True):
    """Put a node whose snapshot failed in SNAPSHOTFAIL.

    :param task: a TaskManager instance with an exclusive lock on its node
    :param logmsg: Message to be logged.
    :param errmsg: Message for the user. Optional, if not provided `logmsg` is
        used.
    :param traceback: Whether to log a traceback.
    :param bring_back: Whether to bring the instance back. If that fails, an
        abort, another snapshot and an undeploy try it again.
    :param set_fail_state: Whether the node is not in its final state yet.
    """
    node = task.node
    errmsg = errmsg or logmsg
    LOG.error(logmsg, exc_info=traceback)
    if bring_back:
        try:
            _bring_instance_back(task)
        except Exception as e:
            LOG.exception('The instance of node %(node)s is not back after '
                          'its snapshot: %(err)s',
                          {'node': node.uuid, 'err': e})
            errmsg = _('%s. Also failed to bring the instance back.') % errmsg
    node.del_driver_internal_info(IMAGE_REF)
    utils.node_history_record(node, event=errmsg,
                              event_type=states.SNAPSHOTTING, error=True)
    node.save()
    if set_fail_state:
        task.process_event('fail')


def clean_up_after_timeout(task):
    """Bring the instance back after its ramdisk was not heard of.

    :param task: a TaskManager instance; its node is in SNAPSHOTFAIL.
    """
    errmsg = _('Timeout reached while waiting for the ramdisk that takes the '
               'snapshot. Please check if it is running on the node.')
    error_handler(task, 'Snapshot of node %(node)s failed. %(err)s' %
                  {'node': task.node.uuid, 'err': errmsg},
                  errmsg=errmsg, set_fail_state=False)


def do_node_snapshot_abort(task):
    """Bring the instance back after an abort.

    :param task: a TaskManager instance; its node is in SNAPSHOTFAIL after the
        abort of a snapshot, and in ACTIVE after that of a failed one.
    """
    node = task.node
    if (node.provision_state == states.ACTIVE
            and RAMDISK not in node.driver_internal_info):
        # It is back since the snapshot failed.
        return
    errmsg = _('By request, the snapshot was aborted.')
    error_handler(task, 'Snapshot of node %s was aborted.' % node.uuid,
                  errmsg=errmsg, set_fail_state=False)


def tear_down_before_delete(task):
    """Take away what a snapshot has set up on a node that is undeployed.

    :param task: a TaskManager instance with an exclusive lock on its node,
        whatever has become of it since the snapshot.
    """
    if RAMDISK in task.node.driver_internal_info:
        task.driver.boot.clean_up_ramdisk(task)
        with utils.power_state_for_network_configuration(task):
            task.driver.network.remove_servicing_network(task)
        _wipe_internal_info(task)
