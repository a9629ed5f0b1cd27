# SPDX-License-Identifier: Apache-2.0
"""Tests with the real ramdisk in an emulated machine."""
