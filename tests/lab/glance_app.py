# SPDX-License-Identifier: Apache-2.0
"""Glance's own application, whose transactions wait for each other on SQLite.

SQLite refuses a transaction that has read and wants to write while another one writes, without
waiting. Databases of real deployments let it wait, or Glance tries again: it knows their refusals,
and not SQLite's, to which it answers 500. So here each transaction takes SQLite's lock at once.

This file runs in Glance's environment.
"""

import sqlalchemy
from glance.wsgi.api import application  # noqa: F401
from sqlalchemy import event


@event.listens_for(sqlalchemy.Engine, "begin")
def _lock_at_once(connection: sqlalchemy.Connection) -> None:
    connection.execute(sqlalchemy.text("BEGIN IMMEDIATE"))
    # oslo.db begins a transaction too, unless it finds this.
    connection.info["in_transaction"] = True
