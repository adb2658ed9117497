# SPDX-License-Identifier: Apache-2.0
"""Serves an OpenStack API on loopback, as a web server would.

``serve.py MODULE PORT [argument]...``; the arguments are the service's.
"""

from __future__ import annotations

import importlib
import logging
import sys

import waitress

#: Cinder uploads volumes as images; by default a volume of 1 GiB is refused.
LARGEST_BODY = 1 << 40


def main() -> None:
    """Load the module's application and serve it."""
    _, module, port, *rest = sys.argv
    # What a service finds as its own command line.
    sys.argv = [module, *rest]
    application = importlib.import_module(module).application
    logging.getLogger('waitress').setLevel(logging.ERROR)
    waitress.serve(application, host='127.0.0.1', port=int(port), threads=6,
                   ident=None, max_request_body_size=LARGEST_BODY)


if __name__ == '__main__':
    main()
