# SPDX-License-Identifier: Apache-2.0
"""The Cinder driver, by real Cinder."""
