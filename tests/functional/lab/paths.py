# SPDX-License-Identifier: Apache-2.0
"""Where the laboratory keeps things: all of it under the checkout's .tmp.

Sockets are the exception: their paths may not exceed 107 characters, so
they live in a short temporary folder that its owner removes.
"""

from __future__ import annotations

from pathlib import Path

#: The checkout.
CHECKOUT = Path(__file__).resolve().parents[3]
#: Everything generated; git ignores it.
TMP = CHECKOUT / '.tmp'
#: Kernels and initramfs, one folder per content.
GUEST_CACHE = TMP / 'guest'
#: What tools/setup unpacked for the guest without installing it.
GUEST_PACKAGES = TMP / 'guest-packages'
#: libvirt's slow probe of the QEMU binaries, kept between runs.
LIBVIRT_CACHE = TMP / 'libvirt-cache'
#: What a failed test leaves, one folder per test.
FAILURES = TMP / 'failures'
#: Folders of the tests that run now, one per session.
RUNNING = TMP / 'running'
