# SPDX-License-Identifier: Apache-2.0
"""The test laboratory: real servers, a real agent and real disks in namespaces of their own."""
