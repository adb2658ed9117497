#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of a client.  Its root is the machine's own, read-only; all that
# is written goes to memory, but for the log.
# lab_number, lab_python, lab_checkout and lab_log come from the command line.
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm

# The checkout, or the Python, may lie in a folder that is about to be hidden.
prefix=$(dirname "$(dirname "$(readlink -f "$lab_python")")")
mkdir /dev/shm/checkout /dev/shm/prefix
mount --bind "$lab_checkout" /dev/shm/checkout
mount --bind "$prefix" /dev/shm/prefix
for folder in /run /tmp /mnt /var/lib/nfs; do
    mount -t tmpfs -o mode=1777 tmpfs "$folder"
done
if [ ! -e "$lab_checkout" ]; then
    mkdir -p "$lab_checkout"
    mount --bind /dev/shm/checkout "$lab_checkout"
fi
if [ ! -e "$prefix" ]; then
    mkdir -p "$prefix"
    mount --bind /dev/shm/prefix "$prefix"
fi
mkdir /run/log /run/lock /mnt/share
mount -t hostfs -o "$lab_log" none /run/log
exec >/run/log/init 2>&1

# Ordinary users may not look into root's home, where the Python could be.
number=0
for needed in "$lab_checkout" "$prefix"; do
    folder=$needed
    closed=
    while [ "$folder" != / ]; do
        folder=$(dirname "$folder")
        case $(stat -c %A "$folder") in
        *[xt]) ;;
        *) closed=$folder ;;
        esac
    done
    if [ -n "$closed" ]; then
        number=$((number + 1))
        mkdir -p "/run/open/$number"
        mount --bind "$needed" "/run/open/$number"
        mount -t tmpfs -o mode=755 tmpfs "$closed"
        mkdir -p "$needed"
        mount --bind "/run/open/$number" "$needed"
    fi
done

ip link set lo up
ip address add "10.99.0.1$lab_number/24" dev vec0
ip link set vec0 up
hostname "client$lab_number"
mkdir -p /run/kernel/lib
ln -s /usr/lib/uml/modules /run/kernel/lib/modules
modprobe -d /run/kernel -a nfs nfsv4 fuse

cd "$lab_checkout"
export HOME=/tmp LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
stty raw -echo </dev/tty1
exec "$lab_python" -m tests.functional.nfs.lab.runner </dev/tty1 3>/dev/tty1
