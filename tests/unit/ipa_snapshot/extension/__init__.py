# SPDX-License-Identifier: Apache-2.0
"""Tests of what the agent loads, with the agent's own modules."""
