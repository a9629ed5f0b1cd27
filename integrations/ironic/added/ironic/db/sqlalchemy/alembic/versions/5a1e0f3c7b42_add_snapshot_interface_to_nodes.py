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

from alembic import op
import sqlalchemy as sa

"""add_snapshot_interface_to_nodes

Revision ID: 5a1e0f3c7b42
Revises: 9fb44677ef15
Create Date: 2026-11-29 05:20:00.000000

"""

# revision identifiers, used by Alembic.
revision = '5a1e0f3c7b42'
down_revision = '9fb44677ef15'


def upgrade():
    op.add_column('nodes', sa.Column('snapshot_interface', sa.String(255),
                                     nullable=True))
