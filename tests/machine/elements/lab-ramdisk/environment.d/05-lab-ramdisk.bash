# SPDX-License-Identifier: Apache-2.0
# For every pip in the chroot; nothing of it stays in the ramdisk.
export PIP_NO_INDEX=1
export PIP_FIND_LINKS=/tmp/in_target.d/wheelhouse
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_ROOT_USER_ACTION=ignore
