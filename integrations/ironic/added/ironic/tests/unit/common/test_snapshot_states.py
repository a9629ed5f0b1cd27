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
"""Tests for the states of snapshots."""

from ironic.common import exception
from ironic.common import network
from ironic.common import state_machine
from ironic.common import states
from ironic.drivers import utils as driver_utils
from ironic.tests import base
from ironic.tests.unit.objects import utils as obj_utils

# As the specification lists them.
TRANSITIONS = {
    (states.ACTIVE, 'snapshot', states.SNAPSHOTTING),
    (states.SNAPSHOTTING, 'fail', states.SNAPSHOTFAIL),
    (states.SNAPSHOTTING, 'wait', states.SNAPSHOTWAIT),
    (states.SNAPSHOTWAIT, 'resume', states.SNAPSHOTTING),
    (states.SNAPSHOTWAIT, 'fail', states.SNAPSHOTFAIL),
    (states.SNAPSHOTWAIT, 'abort', states.SNAPSHOTFAIL),
    (states.SNAPSHOTTING, 'done', states.ACTIVE),
    (states.SNAPSHOTFAIL, 'abort', states.ACTIVE),
    (states.SNAPSHOTFAIL, 'snapshot', states.SNAPSHOTTING),
    (states.SNAPSHOTWAIT, 'delete', states.DELETING),
    (states.SNAPSHOTFAIL, 'delete', states.DELETING),
}


class SnapshotStatesTestCase(base.TestCase):

    def test_the_machine_has_these_transitions_and_no_others(self):
        events = {event for _old, event, _new in TRANSITIONS}
        found = set()
        for state in states.SNAPSHOT_STATES | {states.ACTIVE}:
            for event in events:
                machine = state_machine.machine.copy()
                machine.initialize(state)
                try:
                    machine.process_event(event)
                except exception.InvalidState:
                    continue
                change = (state, event, machine.current_state)
                if states.SNAPSHOT_STATES & set(change):
                    found.add(change)
        self.assertEqual(TRANSITIONS, found)

    def test_a_ramdisk_is_prepared_and_looked_up(self):
        for state in (states.SNAPSHOTTING, states.SNAPSHOTWAIT):
            node = obj_utils.get_test_node(None, provision_state=state)
            self.assertTrue(driver_utils.need_prepare_ramdisk(node))
            self.assertEqual(network.SERVICING_NETWORK,
                             network.get_network_type_for_state(state))
        self.assertIn(states.SNAPSHOTWAIT, states.LOOKUP_ALLOWED_STATES)
        self.assertIn(states.SNAPSHOTFAIL, states.UPDATE_ALLOWED_STATES)
        self.assertIn(states.SNAPSHOTFAIL, states.FAILURE_STATES)
        self.assertIn(states.SNAPSHOTTING,
                      states.STUCK_STATES_TREATED_AS_FAIL)
