# SPDX-License-Identifier: Apache-2.0
"""Makes LUKS headers that open in milliseconds instead of seconds.

A header is made so that opening it takes two seconds of work, and upstream's
driver offers no option.  A qemu-img in front of the real one asks for less;
it changes nothing else, and both drivers get the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import tempfile

_SCRIPT = '''\
#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
for word in "$@"; do
    case $word in
        *encrypt.iter-time=*) ;;
        encrypt.format=luks*) word+=,encrypt.iter-time=10 ;;
    esac
    words+=("$word")
done
exec {tool} "${{words[@]}}"
'''


@contextmanager
def quick_luks() -> Iterator[None]:
    """Put it in front of the real qemu-img for this process's children."""
    with tempfile.TemporaryDirectory(prefix='quick-luks-') as folder:
        script = Path(folder, 'qemu-img')
        script.write_text(_SCRIPT.format(tool=shutil.which('qemu-img')))
        script.chmod(0o755)
        before = os.environ['PATH']
        os.environ['PATH'] = f'{folder}:{before}'
        try:
            yield
        finally:
            os.environ['PATH'] = before
