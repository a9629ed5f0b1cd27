# SPDX-License-Identifier: Apache-2.0
"""What all tests run under."""

import signal

# In the background of a shell without job control SIGINT is ignored, by all that is started too.
signal.signal(signal.SIGINT, signal.default_int_handler)
