# SPDX-License-Identifier: Apache-2.0
"""What ironic-python-agent loads; the only part of the package that imports it."""
