# SPDX-License-Identifier: Apache-2.0
"""Who is kept out, and who is noticed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import fcntl
import os
from pathlib import Path
import subprocess
import threading

import pytest

from assisted_snapshots.chain.lock import opened_by_qemu
from assisted_snapshots.chain.lock import Use
from assisted_snapshots.chain.lock import uses
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import VolumeFiles


@pytest.fixture
def files(tmp_path: Path) -> VolumeFiles:
    return VolumeFiles(tmp_path, 'volume-1')


def free(files: VolumeFiles) -> bool:
    """Tell whether another process could lock, with a POSIX lock even."""
    with open(files.lock, 'r+') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def test_held_inside_and_free_outside(files: VolumeFiles) -> None:
    with VolumeLock(files):
        assert not free(files)
    assert free(files)


def test_a_member_of_the_group_can_lock_too(files: VolumeFiles) -> None:
    before = os.umask(0o077)
    try:
        with VolumeLock(files):
            pass
    finally:
        os.umask(before)
    assert files.lock.stat().st_mode & 0o777 == 0o660


def test_threads_take_turns(files: VolumeFiles) -> None:
    inside = []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        for _ in range(20):
            with VolumeLock(files):
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()


def test_a_child_that_inherits_it_keeps_it(files: VolumeFiles) -> None:
    with VolumeLock(files) as lock:
        child = subprocess.Popen(
            ['sh', '-c', 'echo; read line <&2'], stdin=lock.fileno(),
            stdout=subprocess.PIPE, stderr=(gate := os.pipe())[0])
    assert child.stdout is not None
    child.stdout.readline()
    assert not free(files)
    os.write(gate[1], b'\n')
    child.wait()
    assert free(files)
    child.stdout.close()
    for fd in gate:
        os.close(fd)


def test_a_lock_file_that_was_removed_meanwhile_is_no_lock(
        files: VolumeFiles) -> None:
    waiting = threading.Event()

    def second() -> bool:
        waiting.set()
        with VolumeLock(files):
            return not free(files)

    with ThreadPoolExecutor(1) as pool:
        with VolumeLock(files):
            done = pool.submit(second)
            waiting.wait()
            files.lock.unlink()
        assert done.result()


def test_what_a_qemu_has_open(tmp_path: Path) -> None:
    image = tmp_path / 'volume-1'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', image, '1M'],
                   check=True)
    assert not opened_by_qemu(image)
    with subprocess.Popen(['qemu-io', '-f', 'qcow2', image],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, bufsize=0) as process:
        assert process.stdin and process.stdout
        process.stdin.write('length\n')
        while '1 MiB' not in process.stdout.readline():
            continue
        assert opened_by_qemu(image)
        assert uses(image) & Use.WRITE
        assert not uses(image) & Use.FILL
        process.stdin.close()
        process.wait()
    assert not opened_by_qemu(image)
    assert uses(image) == Use(0)
