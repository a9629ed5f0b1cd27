# SPDX-License-Identifier: Apache-2.0
"""What both ends of a snapshot share: its values and errors, and the intermediate storage.

The agent side (``ipa_snapshot``) and the conductor side (``conductor_client``) never import
each other; both import this.
"""
