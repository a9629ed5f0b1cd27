# SPDX-License-Identifier: Apache-2.0
"""Tempest tests of snapshots of bare-metal nodes."""
