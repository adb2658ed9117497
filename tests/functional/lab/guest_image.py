# SPDX-License-Identifier: Apache-2.0
"""Builds the tiny guest from the machine's own packages.

An uncompressed kernel and an initramfs with busybox, the QEMU guest agent
and the verifying writer.  The kernel is uncompressed because emulation
would spend a second on decompressing it.  Results are kept per content:
whatever changes (a package, the writer, this module) makes a new folder.
"""

from __future__ import annotations

from dataclasses import dataclass
import gzip
import hashlib
import lzma
import os
from pathlib import Path
import re
import select
import shutil
import struct
import subprocess
import tempfile
import time

from tests.functional.lab import cpio
from tests.functional.lab import paths

HERE = Path(__file__).parent
#: Where the guest's parts are looked for, in this order.
ROOTS = (paths.GUEST_PACKAGES, Path('/'))
MODULES = ('virtio_pci', 'virtio_blk', 'virtio_console', 'ext4')
APPLETS = ('sh cat chmod cp date dd df echo head hexdump insmod kill ln ls '
           'md5sum mkdir mount mv ps rm sed sleep sync tail touch umount '
           'uname wc').split()
CMDLINE = ('console=ttyS0 quiet cryptomgr.notests 8250.nr_uarts=1 '
           'random.trust_cpu=on tsc=reliable no_timer_check panic=-1')
#: Emulation: loops per jiffy need not be measured.
TCG_CMDLINE = CMDLINE + ' lpj=10000000'
READY = b'GUEST-READY'
#: Seconds; a real boot under KVM takes about one.
KVM_DEADLINE = 8
BOOT_ID = Path('/proc/sys/kernel/random/boot_id')


class ImageError(Exception):
    """The guest cannot be built from what is installed."""

    message = 'cannot build the guest: {reason}; run tools/setup'

    def __init__(self, reason: str) -> None:
        super().__init__(self.message.format(reason=reason))


@dataclass(frozen=True)
class GuestImage:
    """A bootable guest.

    :ivar folder: holds ``vmlinux`` and ``initramfs``.
    """

    folder: Path

    @property
    def kernel(self) -> Path:
        """Uncompressed kernel."""
        return self.folder / 'vmlinux'

    @property
    def initramfs(self) -> Path:
        """Root file system."""
        return self.folder / 'initramfs'


def build(cache: Path = paths.GUEST_CACHE) -> GuestImage:
    """The guest image, built unless the cache has it."""
    kernel = _newest_kernel()
    sources = [HERE / 'pwriter.c', HERE / 'guest_init.sh', Path(__file__),
               HERE / 'cpio.py', _tool('busybox'), _tool('qemu-ga'), kernel]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    image = GuestImage(cache / digest.hexdigest()[:16])
    if not image.folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            fresh = Path(scratch, 'image')
            fresh.mkdir()
            Path(fresh, 'vmlinux').write_bytes(_uncompressed(kernel))
            Path(fresh, 'initramfs').write_bytes(
                _initramfs(_writer(Path(scratch)), kernel))
            _keep(fresh, image.folder)
    return image


def _keep(fresh: Path, place: Path) -> None:
    """Move the finished image into the cache; another builder may win."""
    try:
        fresh.rename(place)
    except OSError:
        if not place.is_dir():
            raise


def _tool(name: str) -> Path:
    """A program, unpacked for the guest or installed."""
    folders = [root / folder for root in ROOTS
               for folder in ('usr/sbin', 'usr/bin', 'sbin', 'bin')]
    found = shutil.which(name, path=':'.join(map(str, folders)))
    if found is None:
        raise ImageError(f'{name} is not installed')
    return Path(found)


def _newest_kernel() -> Path:
    """The newest kernel that has its modules; a cloud kernel if possible."""
    kernels = [k for root in ROOTS for k in (root / 'boot').glob('vmlinuz-*')
               if _has_modules(k)]
    if not kernels:
        raise ImageError('there is no kernel with modules')

    def rank(kernel: Path) -> tuple[bool, list[int]]:
        numbers = re.findall(r'\d+', _release(kernel))
        return 'cloud' in kernel.name, [int(n) for n in numbers]
    return max(kernels, key=rank)


def _release(kernel: Path) -> str:
    return kernel.name.removeprefix('vmlinuz-')


def _root(kernel: Path) -> Path:
    """Root of the file system that the kernel was unpacked in."""
    return kernel.parents[1]


def _has_modules(kernel: Path) -> bool:
    dependencies = f'lib/modules/{_release(kernel)}/modules.dep'
    return (_root(kernel) / dependencies).is_file()


def _uncompressed(kernel: Path) -> bytes:
    """The ELF image inside a bzImage (Linux Documentation/arch/x86/boot)."""
    image = kernel.read_bytes()
    setup_sectors = image[0x1f1] or 4
    offset, length = struct.unpack_from('<II', image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    elf = _unpack(image[start:start + length])
    if elf[:4] != b'\x7fELF':
        raise ImageError(f'{kernel} holds no ELF image')
    return elf


def _unpack(data: bytes) -> bytes:
    """Decompress what the kernel's build may have compressed."""
    if data.startswith(b'\xfd7zXZ'):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b'\x1f\x8b'):
        return gzip.decompress(data)
    for magic, tool in ((b'\x28\xb5\x2f\xfd', 'zstd'),
                        (b'\x02\x21\x4c\x18', 'lz4')):
        if data.startswith(magic):
            # Trailing bytes after the frame make the tools exit with 1.
            return subprocess.run([_tool(tool), '-dc'], input=data,
                                  check=False, capture_output=True).stdout
    return data


def _writer(scratch: Path) -> bytes:
    """The verifying writer, statically linked."""
    output = scratch / 'pwriter'
    subprocess.run(['cc', '-O2', '-static', '-Wall', '-Wextra', '-Werror',
                    '-s', '-o', output, HERE / 'pwriter.c'], check=True)
    return output.read_bytes()


def _initramfs(writer: bytes, kernel: Path) -> bytes:
    archive = cpio.Archive()
    for folder in ('dev', 'proc', 'sys', 'run', 'tmp', 'data', 'var/run'):
        archive.folder(folder)
    archive.file('init', (HERE / 'guest_init.sh').read_bytes(), 0o755)
    archive.file('bin/busybox', _tool('busybox').read_bytes(), 0o755)
    for applet in APPLETS:
        archive.link(f'bin/{applet}', 'busybox')
    archive.file('bin/pwriter', writer, 0o755)
    agent = _tool('qemu-ga')
    archive.file('bin/qemu-ga', agent.read_bytes(), 0o755)
    for library in _libraries(agent):
        archive.file(library.lstrip('/'), Path(library).read_bytes(), 0o755)
    modules = _modules(kernel)
    for module in modules:
        data = _unpack(module.read_bytes())
        archive.file(f'lib/modules/{_stem(module)}', data)
    archive.file('lib/modules/order', ''.join(
        f'{_stem(module)}\n' for module in modules).encode())
    return archive.data()


def _stem(module: Path) -> str:
    return module.name.partition('.')[0] + '.ko'


def _libraries(program: Path) -> list[str]:
    output = subprocess.run(['ldd', program], check=True, text=True,
                            capture_output=True).stdout
    return sorted(set(re.findall(r'(/lib\S*) \(', output)))


def _modules(kernel: Path) -> list[Path]:
    """Files of the drivers, in loading order; built-in ones have none."""
    found: dict[Path, None] = {}
    for module in MODULES:
        output = subprocess.run(
            [_tool('modprobe'), '-d', _root(kernel), '-S', _release(kernel),
             '--show-depends', module],
            check=True, text=True, capture_output=True).stdout
        for path in re.findall(r'^insmod (\S+)', output, re.MULTILINE):
            found[Path(path)] = None
    return list(found)


def accelerator(image: GuestImage) -> str:
    """``kvm`` where a guest truly boots with it, else ``tcg``.

    /dev/kvm can be there, and open, on machines where every guest dies or
    hangs.  The verdict holds until the machine is booted again.
    """
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        return 'tcg'
    verdict = image.folder / f'accelerator-{BOOT_ID.read_text().strip()}'
    if not verdict.exists():
        verdict.write_text('kvm' if _boots_with_kvm(image) else 'tcg')
    return verdict.read_text() or 'tcg'


def _boots_with_kvm(image: GuestImage) -> bool:
    command = ['qemu-system-x86_64', '-accel', 'kvm', '-cpu', 'max',
               '-m', '128', '-nodefaults', '-display', 'none', '-no-reboot',
               '-kernel', str(image.kernel), '-initrd', str(image.initramfs),
               '-append', CMDLINE, '-serial', 'stdio']
    probe = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
    try:
        return _says_ready(probe)
    finally:
        probe.kill()
        probe.wait()


def _says_ready(probe: subprocess.Popen[bytes]) -> bool:
    """Whether the guest reports itself before the deadline."""
    assert probe.stdout is not None
    seen = b''
    deadline = time.monotonic() + KVM_DEADLINE
    while READY not in seen:
        left = deadline - time.monotonic()
        if not select.select([probe.stdout], [], [], max(left, 0))[0]:
            return False
        piece = os.read(probe.stdout.fileno(), 65536)
        if not piece:
            return False
        seen += piece
    return True


if __name__ == '__main__':
    built = build()
    print(f'guest image {built.folder.name}, {accelerator(built)}')
