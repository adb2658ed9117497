# SPDX-License-Identifier: Apache-2.0
"""Where the agent and the callback for its reports are found.

The version grows in its minor part when a method, or an argument that
changes a meaning, is added; a peer that is too old refuses such a call with
:class:`~assisted_snapshots.rpcapi.errors.NotUnderstood`.  Keys that an older
peer may ignore are added to the messages without a new version.
"""

from __future__ import annotations

import oslo_messaging as messaging

#: Both sides name it: Nova's transport has an exchange of its own, and what
#: is sent there reaches nobody.
EXCHANGE = 'assisted-snapshots'
TOPIC = 'assisted-snapshot'
REPORT_TOPIC = 'assisted-snapshot-report'
# 1.1: extend
VERSION = '1.1'
# 1.1: ping
REPORT_VERSION = '1.1'

# Modules whose exceptions oslo.messaging may rebuild.
EXMODS = ('assisted_snapshots.rpcapi.errors',)


def agent(host: str, topic: str = TOPIC) -> messaging.Target:
    """Return the target of the agent on a host."""
    return messaging.Target(exchange=EXCHANGE, topic=topic, server=host,
                            version='1.0')


def report(host: str, topic: str = REPORT_TOPIC) -> messaging.Target:
    """Return the target of the callback that takes a host's reports."""
    return messaging.Target(exchange=EXCHANGE, topic=topic, server=host,
                            version='1.0')
