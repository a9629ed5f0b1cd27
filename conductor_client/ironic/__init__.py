# SPDX-License-Identifier: Apache-2.0
"""The conductor's plug-in: snapshots as a service step of Ironic's own conductor.

``config``, ``image_access``, ``jobs``, ``leftovers``, ``record`` and ``work`` work on plain values;
the other modules know Ironic.
"""
