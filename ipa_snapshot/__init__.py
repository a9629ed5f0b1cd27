# SPDX-License-Identifier: Apache-2.0
"""The machine's side of a snapshot: find the disk, read it, send it as an image."""
