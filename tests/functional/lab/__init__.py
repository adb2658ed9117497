# SPDX-License-Identifier: Apache-2.0
"""A laboratory on one machine: libvirtd, RabbitMQ, guests, shares.

Used by the functional tests, the demonstration and the benchmarks.  It
knows nothing of how the project works inside, so that its verdicts are
independent of the code they judge.  Nothing here may touch the machine's
own libvirt or RabbitMQ, or end a process that it did not start.
"""
