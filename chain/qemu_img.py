# SPDX-License-Identifier: Apache-2.0
"""qemu-img, one thin function for each subcommand used.

Argument lists only, every format said, resources limited.  Relative names,
run in the folder of the volume, because QEMU stores a backing name as it was
given.  Secrets travel through memory.  If this process dies, qemu-img is
killed; and it inherits the volume's lock, so nobody works on the volume
before it is gone.  This module must never probe a format, run a shell or
write a secret to a disk or a command line.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
import os
from pathlib import Path
import re
import subprocess
from typing import IO

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.value import Format

Progress = Callable[[float], None]

# A hostile image must not eat the host.  What copies runs as long as it
# takes.
_QUICK = (f'--as={1 << 30}', '--cpu=60')
_COPY = (f'--as={8 << 30}',)
# glibc gives a new thread an arena of 128 MiB of addresses; QEMU starts more
# threads the busier the host is, and aborts when the limit allows no other.
_ENVIRONMENT = {'LC_ALL': 'C', 'MALLOC_ARENA_MAX': '1'}

_PERCENT = re.compile(rb'\(([0-9.]+)/100%\)')


@dataclass(frozen=True, slots=True)
class Secret:
    """The passphrase of LUKS layers; kept in memory only.

    :ivar value: the passphrase.
    :ivar stretch_ms: time that unlocking a new layer shall take; None for
        QEMU's own choice.
    :ivar cipher: how new layers are encrypted: QEMU's options of a LUKS
        container; none for QEMU's own choice.
    """

    value: bytes = field(repr=False)
    stretch_ms: int | None = None
    cipher: tuple[tuple[str, str], ...] = ()

    def passphrase(self) -> bytes:
        """Return the passphrase, when it is needed."""
        return self.value


@dataclass(frozen=True, slots=True)
class Image:
    """A layer and what shows through it.

    :ivar name: bare name of the layer.
    :ivar format: its pinned format.
    :ivar depth: number of layers below it.
    :ivar encrypted: it and all below it are LUKS.
    """

    name: str
    format: Format
    depth: int = 0
    encrypted: bool = False


class QemuImg:
    """Runs qemu-img on the layers of one folder.

    :param folder: where bare names are found.
    :param secret: for encrypted layers.
    :param progress: called with the percentage done.
    """

    def __init__(self, folder: Path, secret: Secret | None = None,
                 progress: Progress | None = None) -> None:
        self._folder = folder
        self._secret = secret
        self.progress = progress
        #: a lock that a running qemu-img holds too.
        self.held: int | None = None
        #: layers that are denied to all others -> the descriptor that does
        #: so, which a running qemu-img holds too.
        self.denied: dict[str, int] = {}

    def create(self, image: Image, size: int,
               backing: tuple[str, Format] | None = None) -> None:
        """Create an empty layer; the backing file is not opened."""
        options = self._luks(image)
        below = ['-b', backing[0], '-F', backing[1]] if backing else []
        self._run('create', image.name, [
            '-q', '-u', '-f', image.format, *below, *options,
            image.name, str(size)], _QUICK)

    def commit(self, top: Image, base: str | None = None) -> None:
        """Write what a layer holds into one below it; the layer stays.

        :param base: which one, if it is not the next.
        """
        target = ['-b', base] if base else []
        self._run('commit', top.name, [
            '-d', *self._copying(top.name), *target, *self._open(top)],
            _COPY)

    def pull(self, top: Image, backing: tuple[str, Format] | None) -> None:
        """Copy into a layer what it shows of layers that will go.

        The header names the new backing before all that was copied is
        safe: until then only :meth:`repoint` back makes it sure.
        """
        self._run('rebase', top.name, [
            *self._copying(top.name), '-T', self._cache(top.name),
            *self._backing(backing), *self._open(top)], _COPY)

    def repoint(self, image: Image,
                backing: tuple[str, Format] | None) -> None:
        """Change the backing name in a header, and nothing else."""
        alone = Image(image.name, image.format, 0, image.encrypted)
        self._run('rebase', image.name, [
            '-q', '-u', *self._backing(backing), *self._open(alone)], _QUICK)

    def convert(self, source: Image, target: Path, form: Format,
                new: Secret | None = None) -> None:
        """Copy all that an image shows into one new file.

        :param new: the passphrase of the new file, if it is another one.
        """
        made = Image(target.name, form, 0, source.encrypted or bool(new))
        self._run('convert', target.name, [
            *self._copying(source.name), '-T', self._cache(source.name),
            '-O', form, *self._luks(made, new), *self._open(source),
            str(target)], _COPY, new=new)

    def wrap(self, container: str, target: str) -> None:
        """Copy a bare LUKS container into a new encrypted qcow2 layer.

        :param container: bare name of a file that :attr:`denied` has.
        """
        made = Image(target, Format.QCOW2, 0, encrypted=True)
        self._run('convert', container, [
            *self._copying(container), '-T', self._cache(container), '-O',
            made.format, *self._luks(made), '--image-opts',
            'driver=luks,key-secret=luks,file.driver=file,'
            f'file.locking=off,file.filename={container}', target], _COPY)

    def commit_onto(self, top: Image, path: Path, base: Image,
                    below: Path) -> None:
        """Write what one layer holds into a file it does not lie on.

        :param path: where a copy of the layer is, which is written to.
        :param below: where the file is.
        """
        options = ','.join([
            self._options(top, path),
            f'backing.driver={base.format}', 'backing.file.driver=file',
            f'backing.file.filename={_escaped(below)}'])
        self._run('commit', top.name, [
            '-d', *self._copying(top.name), '--image-opts', options], _COPY)

    def resize(self, image: Image, size: int,
               path: Path | None = None) -> None:
        """Make an image larger."""
        self._run('resize', image.name, [
            '-q', *self._open(image, path), str(size)], _QUICK)

    def check(self, image: Image) -> None:
        """Check the consistency of one qcow2 layer."""
        self._run('check', image.name, ['-q', *self._open(image)], _COPY)

    def mend(self, image: Image) -> None:
        """Check one qcow2 layer, and free clusters that nothing uses.

        A tool that was killed leaves some; they are harmless.
        """
        self._run('check', image.name, [
            '-q', '-r', 'leaks', *self._open(image)], _COPY)

    def same(self, one: Image, other: Image,
             over: tuple[str, Format] | None = None) -> bool:
        """Tell whether two images show the same.

        :param over: what ``one`` is to lie on, whatever its header says.
        """
        first = self._options(one)
        if over:
            first += (f',backing.driver={over[1]},backing.file.driver=file,'
                      f'backing.file.filename={over[0]}')
        status = self._run('compare', other.name, [
            '-q', '--image-opts', first, self._options(other)], _COPY,
            accept=(0, 1))
        return status == 0

    def other(self, secret: Secret | None) -> QemuImg:
        """Return a tool for what has another secret; None for this one."""
        if secret is None:
            return self
        tool = QemuImg(self._folder, secret, self.progress)
        tool.held = self.held
        return tool

    @property
    def decrypts(self) -> bool:
        """Whether it has the secret of an encrypted volume."""
        return self._secret is not None

    def has(self, secret: Secret) -> bool:
        """Tell whether a secret opens what this one opens."""
        return (self._secret is not None
                and self._secret.passphrase() == secret.passphrase())

    def _luks(self, image: Image, new: Secret | None = None) -> list[str]:
        """Return the options that make a new layer encrypted."""
        if not image.encrypted:
            return []
        secret, name = (new, 'new') if new else (self._secret, 'luks')
        options = [('format', 'luks'), ('key-secret', name)]
        if secret:
            options += secret.cipher
        if secret and secret.stretch_ms is not None:
            options += [('iter-time', str(secret.stretch_ms))]
        return ['-o', ','.join(f'encrypt.{key}={_escaped(value)}'
                               for key, value in options)]

    def _open(self, image: Image, path: Path | None = None) -> list[str]:
        """Return the arguments that name an image to work on."""
        if image.encrypted or image.name in self.denied:
            return ['--image-opts', self._options(image, path)]
        return ['-f', image.format, str(path or image.name)]

    def _options(self, image: Image, path: Path | None = None) -> str:
        """Return an image as QEMU options, with a secret for each layer."""
        where = _escaped(path or image.name)
        parts = [f'driver={image.format}', 'file.driver=file',
                 f'file.filename={where}']
        if image.name in self.denied and path is None:
            parts += ['file.locking=off']
        if image.encrypted:
            parts += ['backing.' * i + 'encrypt.key-secret=luks'
                      for i in range(image.depth + 1)]
        return ','.join(parts)

    def _backing(self, backing: tuple[str, Format] | None) -> list[str]:
        return ['-b', backing[0], '-F', backing[1]] if backing else ['-b', '']

    def _copying(self, name: str) -> list[str]:
        """Return the arguments of everything that copies."""
        return [*(['-p'] if self.progress else ['-q']),
                '-t', self._cache(name)]

    def _cache(self, name: str) -> str:
        """Bypass the page cache where the file system can."""
        try:
            os.close(os.open(self._folder / name,
                             os.O_RDONLY | os.O_DIRECT | os.O_NOFOLLOW))
        except OSError:
            return 'writeback'
        return 'none'

    def _run(self, command: str, file: str, arguments: Sequence[str],
             limits: Sequence[str], *, accept: Sequence[int] = (0,),
             new: Secret | None = None) -> int:
        """Run one command to its end; returns its status."""
        with (self._given('luks', self._secret) as (secret, passed),
              self._given('new', new) as (other, also)):
            status, errors_seen = self._follow(
                ['setpriv', '--pdeathsig', 'KILL', 'prlimit',
                 *limits, 'qemu-img', command, *secret, *other,
                 *arguments], (*passed, *also, *self.denied.values()))
        if status not in accept:
            raise errors.ImageToolFailed(command=command, file=file,
                                         status=status, stderr=errors_seen)
        return status

    @contextmanager
    def _given(self, name: str, secret: Secret | None,
               ) -> Iterator[tuple[list[str], tuple[int, ...]]]:
        """Yield the arguments and descriptors that hand over a secret."""
        if secret is None:
            yield [], ()
            return
        fd = os.memfd_create('luks', os.MFD_CLOEXEC)
        try:
            os.write(fd, secret.passphrase())
            yield ['--object',
                   f'secret,id={name},file=/proc/self/fd/{fd}'], (fd,)
        finally:
            os.close(fd)

    def _follow(self, argv: list[str],
                passed: tuple[int, ...]) -> tuple[int, str]:
        """Run a command, report its progress; returns status and errors.

        It gets the lock as its lowest descriptor: the kernel lets go of a
        killed process's files in reverse order, so of the lock when the
        images are closed already.
        """
        with (open(os.memfd_create('stderr'), 'w+b') as complaints,
              subprocess.Popen(
                  argv, cwd=self._folder, env=os.environ | _ENVIRONMENT,
                  stdin=(subprocess.DEVNULL if self.held is None
                         else self.held), stdout=subprocess.PIPE,
                  stderr=complaints, pass_fds=passed, bufsize=0) as child):
            try:
                if child.stdout:
                    self._listen(child.stdout)
                status = child.wait()
            except BaseException:
                child.kill()
                raise
            complaints.seek(0)
            text = complaints.read(8192).decode(errors='replace').strip()
        return status, text

    def _listen(self, output: IO[bytes]) -> None:
        while text := output.read(4096):
            found = _PERCENT.findall(text)
            if found and self.progress:
                self.progress(float(found[-1]))


def _escaped(path: Path | str) -> str:
    """Return a path as a part of QEMU options."""
    return str(path).replace(',', ',,')
