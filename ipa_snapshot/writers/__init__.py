# SPDX-License-Identifier: Apache-2.0
"""How an image leaves the machine: one file a writer, found by its entry point."""
