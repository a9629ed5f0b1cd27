# SPDX-License-Identifier: Apache-2.0
"""How an image's bytes are made from a disk's."""
