#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# First process of the laboratory's guest: drivers, guest agent, nothing else.
export PATH=/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
exec >/dev/ttyS0 2>&1 </dev/ttyS0
while read -r module; do insmod "/lib/modules/$module"; done </lib/modules/order
serve() {
    for port in /sys/class/virtio-ports/*; do
        [ -e "$port/name" ] || continue
        [ "$(cat "$port/name")" = org.qemu.guest_agent.0 ] || continue
        qemu-ga -d -m virtio-serial -p "/dev/${port##*/}" \
            -f /run/qga.pid -t /run
        return
    done
    return 1
}
# A controller's ports get their names a moment after it is there.
for controller in /sys/bus/virtio/drivers/virtio_console/virtio*; do
    [ ! -e "$controller" ] || until serve; do :; done
done
echo "GUEST-READY $(cat /proc/uptime)"
# Adopted children are reaped by the shell while it waits.
while :; do sleep 3600 & wait; done
