# SPDX-License-Identifier: Apache-2.0
"""Tests of how an image's bytes are made."""
