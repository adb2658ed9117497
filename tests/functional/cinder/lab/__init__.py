# SPDX-License-Identifier: Apache-2.0
"""What tests of the Cinder driver stand on: Cinder itself, in this process."""

from cinder import objects

# Half of Cinder cannot be imported before this.
objects.register_all()
