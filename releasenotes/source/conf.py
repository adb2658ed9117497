# SPDX-License-Identifier: Apache-2.0
"""How Sphinx builds the release notes."""

project = 'Assisted Snapshots release notes'
copyright = 'the Assisted Snapshots authors'
extensions = ['reno.sphinxext']
root_doc = 'index'
html_theme = 'alabaster'
html_copy_source = False
