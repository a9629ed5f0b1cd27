# SPDX-License-Identifier: Apache-2.0
"""Ironic's metrics, wherever they are."""

try:
    from ironic.common import metrics_utils
except ImportError:
    # Ironic 26.1.1 has them in ironic-lib, and Ironic 28 in itself.
    from ironic_lib import metrics_utils

get_metrics_logger = metrics_utils.get_metrics_logger
