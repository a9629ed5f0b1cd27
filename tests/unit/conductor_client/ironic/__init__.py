# SPDX-License-Identifier: Apache-2.0
"""Tests of what the conductor's plug-in does on plain values, for Ironic is not installed here."""
