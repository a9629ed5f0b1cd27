# SPDX-License-Identifier: Apache-2.0
"""Tests of the snapshots: units, functions on real servers, and whole machines."""
