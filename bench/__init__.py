# SPDX-License-Identifier: Apache-2.0
"""Measurements: ways to make an image of the same disk, against each other."""
