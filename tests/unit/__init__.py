# SPDX-License-Identifier: Apache-2.0
"""Unit tests: they mirror the packages, and need no server but those of their own process."""
