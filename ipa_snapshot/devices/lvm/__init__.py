# SPDX-License-Identifier: Apache-2.0
"""LVM as its own metadata on the disk describes it: nothing is activated, no tool of LVM is run."""
