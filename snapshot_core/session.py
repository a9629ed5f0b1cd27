# SPDX-License-Identifier: Apache-2.0
"""HTTP to a server that was named, and to no other."""

import requests


class Session(requests.Session):
    """Takes nothing from the environment, neither proxies nor ``.netrc``, and follows no redirect.

    requests 2.34 is not enough with ``allow_redirects=False``: it still parses where a redirect
    leads to, and before that reads its body, however long that is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Find no redirect in any answer."""
