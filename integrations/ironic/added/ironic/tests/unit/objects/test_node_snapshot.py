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
"""Tests for snapshot_interface in the object of a node."""

from ironic import objects
from ironic.tests.unit.db import base as db_base
from ironic.tests.unit.objects import utils as obj_utils


class SnapshotInterfaceTestCase(db_base.DbTestCase):

    def _node(self):
        node = obj_utils.get_test_node(self.context)
        node.snapshot_interface = 'fake'
        node.obj_reset_changes()
        return node

    def test_it_is_kept(self):
        node = obj_utils.create_test_node(self.context,
                                          snapshot_interface='fake')
        self.assertEqual('fake', objects.Node.get(
            self.context, node.uuid).snapshot_interface)

    def test_an_older_version_has_none(self):
        node = self._node()
        node._convert_to_version('1.44')
        self.assertFalse(node.obj_attr_is_set('snapshot_interface'))

    def test_a_database_that_is_pinned_to_an_older_version_has_none(self):
        node = self._node()
        node._convert_to_version('1.44', remove_unavailable_fields=False)
        self.assertIsNone(node.snapshot_interface)

    def test_an_older_object_gets_none(self):
        node = self._node()
        delattr(node, 'snapshot_interface')
        node.obj_reset_changes()
        node._convert_to_version('1.45')
        self.assertIsNone(node.snapshot_interface)
        self.assertEqual({'snapshot_interface': None}, node.obj_get_changes())

    def test_notifications_have_it(self):
        payload = objects.node.NodePayload(self._node())
        self.assertEqual('fake', payload.snapshot_interface)
