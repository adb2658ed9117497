# SPDX-License-Identifier: Apache-2.0
"""How Sphinx builds the documentation."""

from importlib import metadata
from pathlib import Path
import sys
import warnings

# oslo.service brings it along; nothing here uses it.
warnings.filterwarnings('ignore', message=r'\s*Eventlet is deprecated')
sys.path.insert(0, str(Path(__file__).parents[1] / 'ext'))

project = 'Assisted Snapshots'
copyright = 'the Assisted Snapshots authors'
version = release = metadata.version('assisted-snapshots')

extensions = [
    'commands',
    'docstring',
    'results',
    'oslo_config.sphinxconfiggen',
    'oslo_config.sphinxext',
    'sphinx.ext.autodoc',
]

root_doc = 'index'
exclude_patterns = ['_static']
nitpicky = True
# Names in signatures that have no page here.
nitpick_ignore_regex = [('py:.*', '.*')]
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'

config_generator_config_file = [
    ('../../etc/assisted-snapshots/config-generator.conf',
     '_static/assisted-snapshot-agent'),
]

html_theme = 'alabaster'
html_theme_options = {
    'description': 'Safe qcow2 snapshots of OpenStack volumes on shares',
    'fixed_sidebar': True,
    'page_width': '68em',
}
html_sidebars = {'**': ['about.html', 'navigation.html', 'searchbox.html']}
html_copy_source = False
