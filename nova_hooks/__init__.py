# SPDX-License-Identifier: Apache-2.0
"""Inside nova-compute: hands snapshot requests to the agent of its host and
takes the agent's reports back to Nova and Cinder.

It must never work on a chain itself.
"""
