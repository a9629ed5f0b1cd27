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
"""Tests for snapshots of the disk of a node with an instance on it."""

import datetime
from unittest import mock

import oslo_messaging as messaging

from ironic.common import exception
from ironic.common import states
from ironic.conductor import manager
from ironic.conductor import snapshots
from ironic.conductor import task_manager
from ironic.conductor import utils as conductor_utils
from ironic.drivers.modules import fake
from ironic.tests.unit.conductor import mgr_utils
from ironic.tests.unit.db import base as db_base
from ironic.tests.unit.objects import utils as obj_utils

IMAGE = '66498c26-a9b5-496c-97a8-5bc08f256155'
FAKE = 'conductor_client.ironic.simple.FakeSnapshot.'


class SnapshotTestCase(db_base.DbTestCase):

    def setUp(self):
        super().setUp()
        self.prepare = self._patch(fake.FakeDeploy, 'prepare_service')
        self.prepare.return_value = states.SERVICEWAIT
        self.tear_down = self._patch(fake.FakeDeploy, 'tear_down_service')

    def _patch(self, target, name):
        patcher = mock.patch.object(target, name, autospec=True)
        self.addCleanup(patcher.stop)
        return patcher.start()

    def _node(self, state, **attributes):
        return obj_utils.create_test_node(
            self.context, driver='fake-hardware', provision_state=state,
            target_provision_state=states.ACTIVE, **attributes)

    def _run(self, function, node, *args):
        with task_manager.acquire(self.context, node.uuid,
                                  shared=False) as task:
            function(task, *args)
        node.refresh()
        return node

    # The request

    def test_it_boots_the_ramdisk_and_waits(self):
        node = self._node(states.SNAPSHOTTING, driver_internal_info={
            'agent_secret_token': 'of an earlier ramdisk',
            'agent_url': 'http://an.earlier.one'})
        self._run(snapshots.do_node_snapshot, node, IMAGE)
        self.prepare.assert_called_once_with(mock.ANY, mock.ANY)
        self.assertEqual(states.SNAPSHOTWAIT, node.provision_state)
        self.assertEqual(
            {snapshots.IMAGE_REF: IMAGE, snapshots.RAMDISK: True},
            node.driver_internal_info)
        self.tear_down.assert_not_called()

    def test_without_a_ramdisk_it_is_begun_at_once(self):
        self.prepare.return_value = None
        node = self._node(states.SNAPSHOTTING)
        with mock.patch(FAKE + 'snapshot', autospec=True,
                        return_value=None) as taken:
            self._run(snapshots.do_node_snapshot, node, IMAGE)
        taken.assert_called_once_with(mock.ANY, mock.ANY, IMAGE)
        self.assertEqual(states.ACTIVE, node.provision_state)

    def test_a_ramdisk_that_cannot_be_prepared_fails_it(self):
        self.prepare.side_effect = exception.NetworkError('no port')
        node = self._node(states.SNAPSHOTTING)
        self._run(snapshots.do_node_snapshot, node, IMAGE)
        self.assertEqual(states.SNAPSHOTFAIL, node.provision_state)
        self.assertIn('no port', node.last_error)
        self.assertFalse({snapshots.IMAGE_REF, snapshots.RAMDISK}
                         & node.driver_internal_info.keys())
        self.tear_down.assert_called_once_with(mock.ANY, mock.ANY)

    # The heartbeats

    def _waiting(self, **info):
        return self._node(states.SNAPSHOTWAIT, driver_internal_info={
            snapshots.RAMDISK: True, **info})

    def test_the_first_heartbeat_begins_it(self):
        node = self._waiting(**{snapshots.IMAGE_REF: IMAGE})
        with mock.patch(FAKE + 'snapshot', autospec=True,
                        return_value=states.SNAPSHOTWAIT) as taken:
            self._run(snapshots.process_heartbeat, node)
            taken.assert_called_once_with(mock.ANY, mock.ANY, IMAGE)
            self.assertEqual(states.SNAPSHOTWAIT, node.provision_state)
            before = node.provision_updated_at
            self._run(snapshots.process_heartbeat, node)
            self.assertEqual(1, taken.call_count)
            self.assertLessEqual(before, node.provision_updated_at)

    def test_one_that_is_done_at_once_brings_the_instance_back(self):
        for result in (None, states.ACTIVE):
            node = self._waiting(**{snapshots.IMAGE_REF: IMAGE})
            with mock.patch(FAKE + 'snapshot', autospec=True,
                            return_value=result):
                self._run(snapshots.process_heartbeat, node)
            self.assertEqual(states.ACTIVE, node.provision_state)
            self.assertEqual({}, node.driver_internal_info)
            self.tear_down.assert_called_once_with(mock.ANY, mock.ANY)
            self.tear_down.reset_mock()
            node.destroy()

    def test_one_that_cannot_be_begun_fails_and_the_instance_is_back(self):
        for outcome in ({'side_effect': Exception('no')},
                        {'return_value': states.CLEANWAIT}):
            node = self._waiting(**{snapshots.IMAGE_REF: IMAGE})
            with mock.patch(FAKE + 'snapshot', autospec=True, **outcome):
                self._run(snapshots.process_heartbeat, node)
            self.assertEqual(states.SNAPSHOTFAIL, node.provision_state)
            self.assertIsNotNone(node.last_error)
            self.tear_down.assert_called_once_with(mock.ANY, mock.ANY)
            self.tear_down.reset_mock()
            node.destroy()

    # The ends

    def test_an_instance_that_is_not_back_is_told_and_tried_again(self):
        self.tear_down.side_effect = exception.NetworkError('no port')
        node = self._node(states.SNAPSHOTTING,
                          driver_internal_info={snapshots.RAMDISK: True})
        self._run(snapshots.finish, node)
        self.assertEqual(states.SNAPSHOTFAIL, node.provision_state)
        self.assertIn('is taken, and its instance is not back',
                      node.last_error)
        self.assertEqual('tried',
                         node.driver_internal_info[snapshots.RAMDISK])

        self.tear_down.side_effect = None
        node.provision_state = states.ACTIVE
        node.save()
        self._run(snapshots.do_node_snapshot_abort, node)
        self.assertEqual({}, node.driver_internal_info)
        self.assertEqual(2, self.tear_down.call_count)

    def test_a_failure_and_an_instance_that_is_not_back_are_both_told(self):
        self.tear_down.side_effect = exception.NetworkError('no port')
        node = self._waiting()
        self._run(snapshots.error_handler, node, 'the disk is broken')
        self.assertEqual(states.SNAPSHOTFAIL, node.provision_state)
        self.assertIn('the disk is broken. Also failed to bring',
                      node.last_error)

    def test_an_abort_of_a_failed_one_leaves_the_instance_alone(self):
        node = self._node(states.ACTIVE)
        self._run(snapshots.do_node_snapshot_abort, node)
        self.tear_down.assert_not_called()
        self.assertIsNone(node.last_error)

    def test_before_an_undeploy_the_ramdisk_and_its_network_are_gone(self):
        node = self._node(states.DELETING, network_interface='noop',
                          driver_internal_info={snapshots.RAMDISK: 'tried'})
        with mock.patch.object(fake.FakeBoot, 'clean_up_ramdisk',
                               autospec=True) as clean_up:
            self._run(snapshots.tear_down_before_delete, node)
            self._run(snapshots.tear_down_before_delete, node)
            clean_up.assert_called_once_with(mock.ANY, mock.ANY)
        self.assertEqual({}, node.driver_internal_info)


@mgr_utils.mock_record_keepalive
class ManagerTestCase(mgr_utils.ServiceSetUpMixin, db_base.DbTestCase):

    def setUp(self):
        super().setUp()
        self._start_service()
        patcher = mock.patch.object(manager.ConductorManager, '_spawn_worker',
                                    autospec=True)
        self.spawn = patcher.start()
        self.addCleanup(patcher.stop)

    def _node(self, state=states.ACTIVE, **attributes):
        return obj_utils.create_test_node(
            self.context, driver='fake-hardware', network_interface='noop',
            provision_state=state, **attributes)

    def _refused(self, expected, function, *args):
        exc = self.assertRaises(messaging.rpc.ExpectedException, function,
                                self.context, *args)
        self.assertEqual(expected, exc.exc_info[0])
        self.spawn.assert_not_called()

    def test_do_node_snapshot(self):
        for state in (states.ACTIVE, states.SNAPSHOTFAIL):
            node = self._node(state)
            self.service.do_node_snapshot(self.context, node.uuid, IMAGE)
            node.refresh()
            self.assertEqual(states.SNAPSHOTTING, node.provision_state)
            self.assertEqual(states.ACTIVE, node.target_provision_state)
            self.spawn.assert_called_with(
                self.service, snapshots.do_node_snapshot, mock.ANY, IMAGE)
            node.destroy()

    def test_do_node_snapshot_in_maintenance(self):
        node = self._node(maintenance=True)
        self._refused(exception.NodeInMaintenance,
                      self.service.do_node_snapshot, node.uuid, IMAGE)

    def test_do_node_snapshot_in_a_wrong_state(self):
        node = self._node(states.AVAILABLE)
        self._refused(exception.InvalidStateRequested,
                      self.service.do_node_snapshot, node.uuid, IMAGE)

    def test_do_node_snapshot_locked(self):
        node = self._node(reservation='another-host')
        self._refused(exception.NodeLocked,
                      self.service.do_node_snapshot, node.uuid, IMAGE)

    def test_do_node_snapshot_of_an_invalid_node(self):
        node = self._node()
        with mock.patch.object(
                fake.FakePower, 'validate', autospec=True,
                side_effect=exception.InvalidParameterValue('no address')):
            self._refused(exception.InvalidParameterValue,
                          self.service.do_node_snapshot, node.uuid, IMAGE)

    def test_do_node_snapshot_into_what_takes_none(self):
        node = self._node()
        with mock.patch(
                FAKE + 'validate_image_ref', autospec=True,
                side_effect=exception.InvalidParameterValue('active')):
            self._refused(exception.InvalidParameterValue,
                          self.service.do_node_snapshot, node.uuid, IMAGE)

    def test_do_node_snapshot_not_supported(self):
        node = self._node(snapshot_interface='no-snapshot')
        self._refused(exception.UnsupportedDriverExtension,
                      self.service.do_node_snapshot, node.uuid, IMAGE)

    def test_do_node_snapshot_without_a_worker(self):
        self.spawn.side_effect = exception.NoFreeConductorWorker()
        node = self._node()
        exc = self.assertRaises(messaging.rpc.ExpectedException,
                                self.service.do_node_snapshot,
                                self.context, node.uuid, IMAGE)
        self.assertEqual(exception.NoFreeConductorWorker, exc.exc_info[0])
        node.refresh()
        self.assertEqual(states.ACTIVE, node.provision_state)

    def test_continue_node_snapshot(self):
        node = self._node(states.SNAPSHOTWAIT)
        self.service.continue_node_snapshot(self.context, node.uuid)
        node.refresh()
        self.assertEqual(states.SNAPSHOTTING, node.provision_state)
        self.spawn.assert_called_once_with(
            self.service, snapshots.finish, mock.ANY)

    def test_continue_node_snapshot_without_a_worker_waits_again(self):
        self.spawn.side_effect = exception.NoFreeConductorWorker()
        node = self._node(states.SNAPSHOTWAIT)
        self.assertRaises(exception.NoFreeConductorWorker,
                          self.service.continue_node_snapshot,
                          self.context, node.uuid)
        node.refresh()
        self.assertEqual(states.SNAPSHOTWAIT, node.provision_state)

    def test_continue_node_snapshot_leaves_one_that_is_not_begun_alone(self):
        node = self._node(states.SNAPSHOTWAIT,
                          driver_internal_info={snapshots.IMAGE_REF: IMAGE})
        self.service.continue_node_snapshot(self.context, node.uuid)
        node.refresh()
        self.assertEqual(states.SNAPSHOTWAIT, node.provision_state)
        self.spawn.assert_not_called()

    def test_continue_node_snapshot_in_a_wrong_state(self):
        node = self._node(states.ACTIVE)
        self.assertRaises(exception.InvalidStateRequested,
                          self.service.continue_node_snapshot,
                          self.context, node.uuid)
        self.spawn.assert_not_called()

    def test_abort(self):
        for state, after in ((states.SNAPSHOTWAIT, states.SNAPSHOTFAIL),
                             (states.SNAPSHOTFAIL, states.ACTIVE)):
            node = self._node(state)
            self.service.do_provisioning_action(self.context, node.uuid,
                                                'abort')
            node.refresh()
            self.assertEqual(after, node.provision_state)
            self.spawn.assert_called_with(
                self.service, snapshots.do_node_snapshot_abort, mock.ANY)
            node.destroy()

    def test_delete(self):
        for state in (states.SNAPSHOTWAIT, states.SNAPSHOTFAIL):
            node = self._node(state)
            self.service.do_node_tear_down(self.context, node.uuid)
            node.refresh()
            self.assertEqual(states.DELETING, node.provision_state)
            node.destroy()

    def test_a_ramdisk_that_is_not_heard_of(self):
        self.spawn.side_effect = (
            lambda service, function, *args: function(*args) or mock.Mock())
        self.config(snapshot_callback_timeout=1, group='conductor')
        node = self._node(
            states.SNAPSHOTWAIT, target_provision_state=states.ACTIVE,
            provision_updated_at=datetime.datetime(2000, 1, 1, 0, 0))
        self.service._check_snapshotwait_timeouts(self.context)
        node.refresh()
        self.assertEqual(states.SNAPSHOTFAIL, node.provision_state)
        self.assertIn('Timeout reached', node.last_error)

    def test_a_conductor_that_starts_fails_what_cannot_be_resumed(self):
        node = self._node(states.SNAPSHOTTING,
                          target_provision_state=states.ACTIVE)
        self.service._correct_stuck_states()
        node.refresh()
        self.assertEqual(states.SNAPSHOTFAIL, node.provision_state)
        self.assertIn("can't be resumed", node.last_error)

    def test_a_conductor_fails_what_a_dead_one_had_in_its_hands(self):
        self.spawn.side_effect = (
            lambda service, function, *args: function(*args) or mock.Mock())
        node = self._node(states.SNAPSHOTTING, reservation='dead',
                          target_provision_state=states.ACTIVE)
        with mock.patch.object(self.dbapi, 'get_offline_conductors',
                               autospec=True, return_value=['dead']), \
                mock.patch.object(manager.ConductorManager,
                                  '_mapped_to_this_conductor', autospec=True,
                                  return_value=True):
            self.service._check_orphan_nodes(self.context)
        node.refresh()
        self.assertEqual(states.SNAPSHOTFAIL, node.provision_state)
        self.assertIn('take over', node.last_error)

    def test_a_heartbeat_goes_to_the_snapshot(self):
        node = self._node(states.SNAPSHOTWAIT, deploy_interface='direct')
        with mock.patch.object(snapshots, 'process_heartbeat',
                               autospec=True) as processed:
            with task_manager.acquire(self.context, node.uuid,
                                      shared=True) as task:
                task.driver.deploy.heartbeat(task, 'http://agent', '13.0.0')
            self.assertEqual(1, processed.call_count)

    def test_a_heartbeat_in_maintenance_fails_it(self):
        self.config(allow_provisioning_in_maintenance=False,
                    group='conductor')
        node = self._node(states.SNAPSHOTWAIT, deploy_interface='direct',
                          maintenance=True)
        with task_manager.acquire(self.context, node.uuid,
                                  shared=True) as task:
            task.driver.deploy.heartbeat(task, 'http://agent', '13.0.0')
        node.refresh()
        self.assertEqual(states.SNAPSHOTFAIL, node.provision_state)
        self.assertIn('maintenance', node.last_error)

    def test_interfaces_ask_for_the_end(self):
        node = self._node(states.SNAPSHOTWAIT)
        with mock.patch('ironic.conductor.rpcapi.ConductorAPI.'
                        'continue_node_snapshot', autospec=True) as asked:
            with task_manager.acquire(self.context, node.uuid,
                                      shared=False) as task:
                conductor_utils.notify_conductor_resume_operation(
                    task, 'snapshot')
            asked.assert_called_once_with(mock.ANY, mock.ANY, node.uuid,
                                          topic=mock.ANY)
