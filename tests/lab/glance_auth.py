# SPDX-License-Identifier: Apache-2.0
"""A fake of Keystone's middleware: the token ``user:project:role,...`` is believed.

This file runs in Glance's environment, as a paste filter.
"""

from collections.abc import Callable
from typing import Any

from glance import context
from glance.common import wsgi


class FakeKeystoneMiddleware(wsgi.Middleware):
    """Turn X-Auth-Token into a request's context."""

    def process_request(self, req: Any) -> None:
        """Give ``req`` the user, project and roles of its token, or none."""
        token = req.headers.get("X-Auth-Token", "")
        user, project, roles = [*token.split(":"), None, None, None][:3]
        names = roles.split(",") if roles else []
        req.context = context.RequestContext(
            user_id=user or None,
            project_id=project,
            roles=names,
            is_admin="admin" in names,
            auth_token=token,
        )


def factory(_global_conf: dict[str, str], **_local: str) -> Callable[[Any], Any]:
    """Answer paste's call for a filter."""
    return FakeKeystoneMiddleware
