# SPDX-License-Identifier: Apache-2.0
"""How qemu-img is run: what it is told, and what it can never do."""

from __future__ import annotations

import os
from pathlib import Path
import select
import shutil
import signal

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.qemu_img import QemuImg
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.value import Format
from tests.images import MIB

BASE = Image('volume-1', Format.QCOW2)


def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a qemu-img first that notes how it was run, then runs."""
    real = shutil.which('qemu-img')
    log = folder / 'log'
    tool = folder / 'bin' / 'qemu-img'
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\n'
        f'{{ echo "$@"; ulimit -v; env; ls -l /proc/self/fd; }} >> {log}\n'
        f'exec {real} "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tool.parent}:{os.environ["PATH"]}')
    return log


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / 'share').mkdir()
    return tmp_path / 'share'


@pytest.mark.slow  # LUKS measures how fast the CPU is
def test_a_secret_passes_through_memory_only(
        share: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    log = recorded(tmp_path, monkeypatch)
    secret = Secret(b'hunter2 in a name', stretch_ms=10)
    assert 'hunter2' not in repr(secret)
    tool = QemuImg(share, secret)
    image = Image('volume-1', Format.QCOW2, 0, encrypted=True)
    tool.create(image, MIB)
    tool.check(image)
    assert 'file=/proc/self/fd/' in log.read_text()
    assert 'hunter2' not in log.read_text()
    assert os.listdir(share) == ['volume-1']
    assert b'hunter2' not in (share / 'volume-1').read_bytes()
    with pytest.raises(errors.ImageToolFailed) as failed:
        QemuImg(share, Secret(b'wrong')).check(image)
    assert 'wrong' not in str(failed.value)


def test_resources_are_limited(share: Path, tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    log = recorded(tmp_path, monkeypatch)
    QemuImg(share).create(BASE, MIB)
    assert str(1 << 20) in log.read_text().splitlines()
    # The threads of a busy host do not use up all of that.
    assert 'MALLOC_ARENA_MAX=1' in log.read_text().splitlines()


def test_a_failure_says_what_and_why(share: Path) -> None:
    with pytest.raises(errors.ImageToolFailed) as failed:
        QemuImg(share).check(BASE)
    assert failed.value.fields['command'] == 'check'
    assert failed.value.fields['file'] == 'volume-1'
    assert 'No such file' in str(failed.value)


def test_progress_is_reported(share: Path) -> None:
    seen: list[float] = []
    tool = QemuImg(share, progress=seen.append)
    tool.create(BASE, MIB)
    tool.convert(BASE, share / 'copy', Format.RAW)
    assert seen[-1] == 100
    assert seen == sorted(seen)


def test_a_raw_layer_is_never_probed(share: Path) -> None:
    """A guest can write a header that names any file of the host."""
    bait = share / 'bait'
    bait.write_bytes(b'secret of the host'.ljust(MIB, b'!'))
    tool = QemuImg(share)
    tool.create(BASE, MIB, ('bait', Format.RAW))
    (share / 'volume-1').rename(share / 'volume-2')
    raw = Image('volume-2', Format.RAW)
    tool.convert(raw, share / 'copy', Format.RAW)
    assert (share / 'copy').read_bytes().startswith(
        (share / 'volume-2').read_bytes())


def test_a_new_overlay_does_not_open_what_it_lies_on(share: Path) -> None:
    QemuImg(share).create(BASE, MIB, ('not-there', Format.RAW))
    assert (share / 'volume-1').exists()


def test_the_page_cache_is_used_where_there_must_be_one(
        share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, 'no O_DIRECT here')
        return real(path, flags, *rest)

    tool = QemuImg(share)
    tool.create(BASE, MIB)
    monkeypatch.setattr(os, 'open', refuse)
    tool.convert(BASE, share / 'copy', Format.RAW)
    assert (share / 'copy').stat().st_size == MIB


def test_a_running_tool_holds_the_volumes_lock(
        share: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    log = recorded(tmp_path, monkeypatch)
    tool = QemuImg(share)
    with VolumeLock(VolumeFiles(share, 'volume-1')) as lock:
        tool.held = lock.fileno()
        tool.create(BASE, MIB)
    # Its lowest descriptor: the kernel closes a killed process's files in
    # reverse order, and the images must not be locked longer than this.
    assert f'0 -> {share / "volume-1.lock"}' in log.read_text()


def test_a_running_tool_dies_with_who_started_it(
        share: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / 'told'
    os.mkfifo(told)
    tool = tmp_path / 'bin' / 'qemu-img'
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho $$ > {told}\nexec sleep 1000\n')
    tool.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tool.parent}:{os.environ["PATH"]}')
    parent = os.fork()
    if parent == 0:
        try:
            QemuImg(share).create(BASE, MIB)
        finally:
            os._exit(1)
    running = os.pidfd_open(int(told.read_text()))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert select.select([running], [], [], 60)[0], 'it lives on'
    os.close(running)
