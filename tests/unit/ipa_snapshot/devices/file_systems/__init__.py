# SPDX-License-Identifier: Apache-2.0
"""Tests of finding and opening the disk."""
