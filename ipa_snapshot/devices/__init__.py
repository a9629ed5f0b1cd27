# SPDX-License-Identifier: Apache-2.0
"""Which disk is meant, and what is on it; nothing here knows where an image goes."""
