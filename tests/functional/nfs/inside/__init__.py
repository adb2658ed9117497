# SPDX-License-Identifier: Apache-2.0
"""What runs in the clients; the tests themselves never call it here."""
