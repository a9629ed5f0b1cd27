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
"""Tests for the verb ``snapshot`` of the API, and for snapshot_interface."""

from http import client as http_client
from unittest import mock

from oslo_utils import uuidutils

from ironic.api.controllers import base as api_base
from ironic.common import exception
from ironic.common import states
from ironic.conductor import rpcapi
from ironic import objects
from ironic.tests.unit.api import base as test_api_base
from ironic.tests.unit.api import utils as test_api_utils
from ironic.tests.unit.objects import utils as obj_utils

IMAGE = '66498c26-a9b5-496c-97a8-5bc08f256155'
HEADERS = {api_base.Version.string: '1.116'}
HEADERS_BEFORE = {api_base.Version.string: '1.115'}


class SnapshotTestCase(test_api_base.BaseApiTest):

    def setUp(self):
        super().setUp()
        self.node = obj_utils.create_test_node(
            self.context, provision_state=states.ACTIVE,
            target_provision_state=states.NOSTATE)
        self._patch('get_topic_for').return_value = 'test-topic'
        self.asked = self._patch('do_node_snapshot')

    def _patch(self, name):
        patcher = mock.patch.object(rpcapi.ConductorAPI, name, autospec=True)
        self.addCleanup(patcher.stop)
        return patcher.start()

    def _put(self, body, headers=HEADERS):
        return self.put_json('/nodes/%s/states/provision' % self.node.uuid,
                             body, headers=headers, expect_errors=True)

    def _refused(self, status, body, headers=HEADERS):
        answer = self._put(body, headers)
        self.assertEqual(status, answer.status_code)
        self.assertTrue(answer.json['error_message'])
        self.asked.assert_not_called()

    def test_snapshot(self):
        answer = self._put({'target': 'snapshot', 'image_ref': IMAGE})
        self.assertEqual(http_client.ACCEPTED, answer.status_code)
        self.asked.assert_called_once_with(
            mock.ANY, mock.ANY, self.node.uuid, IMAGE, topic='test-topic')
        self.assertIn('/nodes/%s/states' % self.node.uuid,
                      answer.headers['Location'])

    def test_snapshot_after_a_failed_one(self):
        self.node.provision_state = states.SNAPSHOTFAIL
        self.node.save()
        answer = self._put({'target': 'snapshot', 'image_ref': IMAGE})
        self.assertEqual(http_client.ACCEPTED, answer.status_code)

    def test_snapshot_before_its_version(self):
        self._refused(http_client.NOT_ACCEPTABLE,
                      {'target': 'snapshot', 'image_ref': IMAGE},
                      HEADERS_BEFORE)

    def test_snapshot_without_image_ref(self):
        self._refused(http_client.BAD_REQUEST, {'target': 'snapshot'})
        self._refused(http_client.BAD_REQUEST,
                      {'target': 'snapshot', 'image_ref': ' '})

    def test_image_ref_without_snapshot(self):
        self._refused(http_client.BAD_REQUEST,
                      {'target': 'deleted', 'image_ref': IMAGE})

    def test_snapshot_in_a_wrong_state(self):
        self.node.provision_state = states.AVAILABLE
        self.node.save()
        self._refused(http_client.BAD_REQUEST,
                      {'target': 'snapshot', 'image_ref': IMAGE})

    def test_snapshot_of_a_node_that_is_locked(self):
        self.node.provision_state = states.SNAPSHOTTING
        self.node.reservation = 'a host'
        self.node.save()
        self._refused(http_client.CONFLICT,
                      {'target': 'snapshot', 'image_ref': IMAGE})

    def test_snapshot_not_supported(self):
        self.asked.side_effect = exception.UnsupportedDriverExtension(
            extension='snapshot', driver='test-driver')
        answer = self._put({'target': 'snapshot', 'image_ref': IMAGE})
        self.assertEqual(http_client.BAD_REQUEST, answer.status_code)

    def test_interface_is_shown_from_its_version_on(self):
        path = '/nodes/%s' % self.node.uuid
        self.assertIn('snapshot_interface',
                      self.get_json(path, headers=HEADERS))
        self.assertNotIn('snapshot_interface',
                         self.get_json(path, headers=HEADERS_BEFORE))
        only = path + '?fields=snapshot_interface'
        self.assertIn('snapshot_interface',
                      self.get_json(only, headers=HEADERS))
        answer = self.get_json(only, headers=HEADERS_BEFORE,
                               expect_errors=True)
        self.assertEqual(http_client.NOT_ACCEPTABLE, answer.status_code)

    def test_interface_in_an_update(self):
        update = self._patch('update_node')
        update.return_value = self.node
        change = [{'op': 'replace', 'path': '/snapshot_interface',
                   'value': 'fake'}]
        path = '/nodes/%s' % self.node.uuid
        answer = self.patch_json(path, change, headers=HEADERS)
        self.assertEqual(http_client.OK, answer.status_code)
        self.assertEqual('fake', update.call_args[0][2].snapshot_interface)
        answer = self.patch_json(path, change, headers=HEADERS_BEFORE,
                                 expect_errors=True)
        self.assertEqual(http_client.NOT_ACCEPTABLE, answer.status_code)

    def test_interface_of_a_new_node(self):
        create = self._patch('create_node')
        create.side_effect = lambda _self, _context, node, topic: (
            node.create() or node)
        self._patch('get_conductor_for').return_value = 'fake.conductor'
        wanted = test_api_utils.post_get_test_node(
            uuid=uuidutils.generate_uuid(),
            chassis_uuid=None, snapshot_interface='fake')
        answer = self.post_json('/nodes', wanted, headers=HEADERS)
        self.assertEqual(http_client.CREATED, answer.status_code)
        made = objects.Node.get(self.context, wanted['uuid'])
        self.assertEqual('fake', made.snapshot_interface)
