# SPDX-License-Identifier: Apache-2.0
"""Measurements; never part of the tests, whose machines are too noisy to judge by time."""
