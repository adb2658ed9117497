# SPDX-License-Identifier: Apache-2.0
"""A driver under eventlet's monkey patching; run as a program.

Takes the snapshot of a volume in a green thread, and prints how often
another one ticked while that was going on: in front of the chain's lock,
which another process holds, and while a slow qemu-img ran.
"""

from cinder import monkey_patch

monkey_patch.patch()

from pathlib import Path  # noqa: E402
import sys  # noqa: E402

from cinder import objects  # noqa: E402
import eventlet  # noqa: E402

from tests.functional.cinder.lab.process import Joined  # noqa: E402


def main(folder: Path, snapshot: str) -> None:
    """Take it, and say so."""
    world = Joined(folder)
    driver = world.make_driver(name='patched', assisted_recovery_interval=0)
    row = world.fresh(objects.Snapshot(id=snapshot))
    done = eventlet.spawn(driver.create_snapshot, row)
    print('begun', flush=True)
    while not done.dead:
        print('tick', flush=True)
        eventlet.sleep(0.05)
    done.wait()
    print('done', flush=True)


if __name__ == '__main__':
    main(Path(sys.argv[1]), sys.argv[2])
