# SPDX-License-Identifier: Apache-2.0
"""The rules of the house, enforced on the tree and seen to be able to fail.

Every rule is a function of a tree that returns what is wrong with it, one
sentence each.  It is run on this project, where it must find nothing, and
on a small made-up tree that breaks exactly that rule.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from collections.abc import Iterator
import configparser
import os
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'assisted_snapshots'

SHARED = {'chain', 'rpcapi'}
ROOMS = {
    'chain': {'chain'},
    'rpcapi': {'rpcapi'},
    'agent': {'agent'} | SHARED,
    'nova_hooks': {'nova_hooks'} | SHARED,
    'cinder_driver': {'cinder_driver'} | SHARED,
    'cli': {'cli'} | SHARED,
}
# What belongs to certain rooms only.
OWNERS = {
    'libvirt': {'agent'},
    'libvirt_qemu': {'agent'},
    'libvirt_lxc': {'agent'},
    'sqlite3': {'agent'},
    'nova': {'nova_hooks'},
    'cinder': {'cinder_driver'},
    'oslo_messaging': set(ROOMS) - {'chain'},
}
MODULE_LINES = 500
FUNCTION_LINES = 60
DOCSTRINGS = 0.95
LICENCE = 'SPDX-License-Identifier: Apache-2.0'
NOT_OURS = {'__pycache__', 'build', 'cover', 'dist'}
# Built in pieces, so that this file does not contain what it forbids.
FOREIGN = re.compile('|'.join((
    r'/(?:work|root|home/\w+)[/]',
    r'/opt[/](?:pypi|wheels)',
    r'[.]pyenv[/]',
    r'https?://[^\s\'">]*(?:pypi|/simple\b|mirror|artifactory|nexus|'
    r'registry|(?:deb|security)\.debian|archive\.ubuntu)',
    r'(?:extra-)?index-url\s*=')))
UNFINISHED = re.compile(r'\b(?:TO[D]O|FIX[M]E|X[X]X)\b')
GIVEN_UP = re.compile(
    r'pytest\.(?:mark\.)?(?:ski[p]|x[f]ail|import[o]rskip)|@unittest\.skip')

Rule = Callable[[Path], list[str]]


def files(tree: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the files that could be tracked."""
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(f for f in folders if f == '.ci' or not (
            f.startswith('.') or f in NOT_OURS or f.endswith('.egg-info')))
        for name in sorted(names):
            path = Path(folder, name)
            ours = not name.startswith('.') or name == '.gitignore'
            if ours and (not suffixes or path.suffix in suffixes):
                yield path


def modules(tree: Path) -> Iterator[tuple[str, ast.Module, Path]]:
    """Yield name, syntax tree and path of every Python file."""
    for path in files(tree, '.py'):
        yield (path.relative_to(tree).as_posix(),
               ast.parse(path.read_text()), path)


def imported(node: ast.AST) -> list[str]:
    """Return the absolute names a statement or call imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level:
            return [f'{"." * node.level}{node.module or ""}']
        return [f'{node.module}.{alias.name}' for alias in node.names]
    if (isinstance(node, ast.Call) and node.args
            and ast.unparse(node.func) in ('__import__', 'import_module',
                                           'importlib.import_module')
            and isinstance(node.args[0], ast.Constant)):
        return [str(node.args[0].value)]
    return []


def who_may_import_whom(tree: Path) -> list[str]:
    """Check that rooms import only what their place in the house allows."""
    wrong = []
    for name, module, _ in modules(tree):
        room = name.split('/')[0]
        if room not in ROOMS:
            continue
        for node in ast.walk(module):
            for target in imported(node):
                parts = target.split('.')
                if parts[0] == '':
                    wrong.append(f'{name}: relative import {target}')
                elif parts[0] in ROOMS:
                    wrong.append(f'{name}: {target} is not installed so')
                elif (parts[0] == PACKAGE
                      and (parts[1:2] or [''])[0] not in ROOMS[room]):
                    wrong.append(f'{name}: {room} imports {target}')
                elif room not in OWNERS.get(parts[0], {room}):
                    wrong.append(f'{name}: {parts[0]} is not for {room}')
    return wrong


def every_room_is_installed(tree: Path) -> list[str]:
    """Check that setup.cfg maps exactly the folders that hold code."""
    config = configparser.ConfigParser()
    config.read(tree / 'setup.cfg')
    mapped = dict(re.split(r'\s*=\s*', line) for line in
                  config['options']['package_dir'].split('\n') if line)
    listed = config['options']['packages'].split()
    found = {f'{PACKAGE}.{p.parent.relative_to(tree).as_posix()}'
             .replace('/', '.'): p.parent.relative_to(tree).as_posix()
             for room in ROOMS for p in (tree / room).rglob('__init__.py')}
    wrong = [f'{name}: not in packages' for name in sorted(
        set(found) - set(listed))]
    wrong += [f'{name}: listed, not there' for name in sorted(
        set(listed) - set(found))]
    wrong += [f'{name}: mapped to {mapped.get(name)}' for name in listed
              if name in found and mapped.get(name) != found[name]]
    wrong += [f'{room}: no py.typed' for room in found.values()
              if not (tree / room / 'py.typed').exists()]
    return wrong


def sizes(tree: Path) -> list[str]:
    """Check that no module or function has grown beyond the alarm."""
    wrong = []
    for name, module, path in modules(tree):
        count = len(path.read_text().splitlines())
        if count > MODULE_LINES:
            wrong.append(f'{name}: {count} lines')
        for node in ast.walk(module):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                wrong.append(f'{name}:{node.lineno}: {node.name} has '
                             f'{length} lines')
    return wrong


def public(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield what a user of a module may use: itself, classes, functions."""
    yield name, node
    for child in getattr(node, 'body', ()):
        if (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                and not child.name.startswith('_')):
            yield f'{name}:{child.name}', child
        elif (isinstance(child, ast.ClassDef)
              and not child.name.startswith('_')):
            yield from public(child, f'{name}:{child.name}')


def docstrings(tree: Path) -> list[str]:
    """Check that at least 95 % of what is public says what it is for.

    A module has to, whatever the rate.
    """
    told, silent, wrong = 0, [], []
    for name, module, _ in modules(tree):
        if name.split('/')[0] not in ROOMS:
            continue
        for what, node in public(module, name):
            if ast.get_docstring(node):  # type: ignore[arg-type]
                told += 1
            elif node is module:
                wrong.append(f'{name}: no docstring')
            else:
                silent.append(what)
    if told < DOCSTRINGS * (told + len(silent)):
        wrong.append(f'{told} with docstring, without: {", ".join(silent)}')
    return wrong


def licence(tree: Path) -> list[str]:
    """Check that code names its licence in the first two lines."""
    wrong = []
    for path in files(tree):
        with path.open('rb') as file:
            head = (file.readline() + file.readline()).decode(
                errors='replace')
        is_code = (path.suffix in ('.py', '.sh', '.c', '.h')
                   or head.startswith('#!'))
        if is_code and LICENCE not in head:
            wrong.append(f'{path.relative_to(tree)}: no SPDX line')
    return wrong


def _search(tree: Path, pattern: re.Pattern[str], *suffixes: str,
            ) -> list[str]:
    wrong = []
    for path in files(tree, *suffixes):
        text = path.read_bytes().decode(errors='replace')
        for number, line in enumerate(text.splitlines(), 1):
            if found := pattern.search(line):
                wrong.append(f'{path.relative_to(tree)}:{number}: '
                             f'{found.group()}')
    return wrong


def nothing_of_this_machine(tree: Path) -> list[str]:
    """Check that no file names a package registry or a path of a machine."""
    return _search(tree, FOREIGN)


def nothing_put_off(tree: Path) -> list[str]:
    """Check that nothing is left to do and no test is given up."""
    return [*_search(tree, UNFINISHED),
            *_search(tree / 'tests', GIVEN_UP, '.py')]


RULES = (who_may_import_whom, every_room_is_installed, sizes, docstrings,
         licence, nothing_of_this_machine, nothing_put_off)


@pytest.mark.parametrize('rule', RULES, ids=lambda rule: rule.__name__)
def test_this_project(rule: Rule) -> None:
    wrong = rule(ROOT)
    assert not wrong, '\n'.join([rule.__doc__ or '', *wrong])


HEADER = f'# {LICENCE}\n"""A module."""\n'


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small tree in which no rule finds anything."""
    names = [f'{PACKAGE}.{room}' for room in ROOMS]
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / '__init__.py').write_text(HEADER)
        (tmp_path / room / 'py.typed').touch()
    (tmp_path / 'setup.cfg').write_text('\n'.join([
        '[options]',
        'packages =', *(f'    {name}' for name in names),
        'package_dir =', *(f'    {name} = {name.split(".")[1]}'
                           for name in names)]))
    (tmp_path / 'tests').mkdir()
    (tmp_path / 'tests' / 'test_it.py').write_text(HEADER)
    return tmp_path


@pytest.mark.parametrize('rule', RULES, ids=lambda rule: rule.__name__)
def test_made_up_tree_is_good(house: Path, rule: Rule) -> None:
    assert rule(house) == []


@pytest.mark.parametrize(('file', 'line'), [
    ('chain/x.py', f'from {PACKAGE}.rpcapi import messages'),
    ('chain/x.py', f'import {PACKAGE}.agent.xml'),
    ('chain/x.py', f'from {PACKAGE} import rpcapi'),
    ('chain/x.py', 'import oslo_messaging'),
    ('chain/x.py', 'from ..rpcapi import messages'),
    ('chain/x.py', 'import chain.plan'),
    ('rpcapi/x.py', f'from {PACKAGE}.chain import plan'),
    ('rpcapi/x.py', f'def f():\n    from {PACKAGE} import chain'),
    ('agent/x.py', f'from {PACKAGE}.cli import main'),
    ('agent/x.py', 'import nova.conf'),
    ('cli/x.py', f'import importlib\nimportlib.import_module("'
                 f'{PACKAGE}.agent.core")'),
    ('cli/x.py', 'import libvirt'),
    ('nova_hooks/x.py', 'import libvirt_qemu'),
    ('nova_hooks/x.py', f'import {PACKAGE}.cinder_driver'),
    ('nova_hooks/x.py', 'from cinder import utils'),
    ('cinder_driver/x.py', 'from nova import utils'),
    ('cinder_driver/deep/x.py', f'import {PACKAGE}.nova_hooks'),
])
def test_import_rule_can_fail(house: Path, file: str, line: str) -> None:
    path = house / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{HEADER}{line}\n')
    assert len(who_may_import_whom(house)) == 1


@pytest.mark.parametrize(('file', 'line'), [
    ('agent/x.py', 'import libvirt'),
    ('agent/x.py', f'from {PACKAGE}.chain import plan'),
    ('cli/x.py', f'from {PACKAGE}.rpcapi import client'),
    ('nova_hooks/x.py', 'import nova.virt'),
    ('cinder_driver/x.py', f'import cinder\nimport {PACKAGE}.chain.plan'),
    ('tests/x.py', f'import libvirt\nfrom {PACKAGE}.agent import xml'),
])
def test_import_rule_allows(house: Path, file: str, line: str) -> None:
    (house / file).write_text(f'{HEADER}{line}\n')
    assert who_may_import_whom(house) == []


def test_installed_rule_can_fail(house: Path) -> None:
    (house / 'agent' / 'deep').mkdir()
    (house / 'agent' / 'deep' / '__init__.py').write_text(HEADER)
    (house / 'agent' / 'deep' / 'py.typed').touch()
    assert every_room_is_installed(house) == [
        f'{PACKAGE}.agent.deep: not in packages']


@pytest.mark.parametrize(('old', 'new', 'found'), [
    (f'    {PACKAGE}.cli\n', f'    {PACKAGE}.clix\n', 2),
    (f'{PACKAGE}.cli = cli', f'{PACKAGE}.cli = agent', 1),
])
def test_mapping_rule_can_fail(house: Path, old: str, new: str,
                               found: int) -> None:
    setup = house / 'setup.cfg'
    assert old in setup.read_text()
    setup.write_text(setup.read_text().replace(old, new))
    assert len(every_room_is_installed(house)) == found


def test_typed_marker_rule_can_fail(house: Path) -> None:
    (house / 'chain' / 'py.typed').unlink()
    assert every_room_is_installed(house) == ['chain: no py.typed']


@pytest.mark.parametrize(('text', 'found'), [
    ('x = 1\n' * (MODULE_LINES - 2), 0),
    ('x = 1\n' * (MODULE_LINES - 1), 1),
    ('def f():\n' + '    x = 1\n' * (FUNCTION_LINES - 1), 0),
    ('class C:\n    async def f():\n' + '        x = 1\n' * FUNCTION_LINES, 1),
])
def test_size_rule_can_fail(house: Path, text: str, found: int) -> None:
    (house / 'tests' / 'test_it.py').write_text(HEADER + text)
    assert len(sizes(house)) == found


def test_docstring_rule_can_fail(house: Path) -> None:
    said = ''.join(f'def f{i}():\n    """F."""\n\n\n' for i in range(12))
    silent = 'class C:\n    def f(self):\n        pass\n'
    (house / 'cli' / 'x.py').write_text(HEADER + said + 'def g(): pass\n')
    assert docstrings(house) == []
    (house / 'cli' / 'x.py').write_text(HEADER + said + silent)
    assert docstrings(house) == [
        '19 with docstring, without: cli/x.py:C, cli/x.py:C:f']


def test_module_docstring_rule_can_fail(house: Path) -> None:
    (house / 'agent' / 'x.py').write_text(f'# {LICENCE}\n')
    assert docstrings(house) == ['agent/x.py: no docstring']


@pytest.mark.parametrize('name', ['x.py', 'x.sh', 'x.c', 'tool'])
def test_licence_rule_can_fail(house: Path, name: str) -> None:
    (house / 'tests' / name).write_text('#!/bin/sh\n:\n')
    assert licence(house) == [f'tests/{name}: no SPDX line']


@pytest.mark.parametrize('pieces', [
    ('/work', '/main'), ('/home', '/me/x'), ('/root', '/.cache'),
    ('/opt', '/wheels'), ('~/.pyenv', '/versions'),
    ('https://py', 'pi.org/'), ('http://ftp.mir', 'ror.example/debian'),
    ('https://deb', '.debian.org/debian'), ('index-url', '=x'),
])
def test_machine_rule_can_fail(house: Path, pieces: tuple[str, str]) -> None:
    (house / 'bindep.txt').write_text('see ' + ''.join(pieces) + '\n')
    assert len(nothing_of_this_machine(house)) == 1


@pytest.mark.parametrize('pieces', [
    ('# TO', 'DO: later'), ('# FIX', 'ME'), ('@pytest.mark.x', 'fail'),
    ('pytest.sk', 'ip("no")'),
])
def test_unfinished_rule_can_fail(house: Path,
                                  pieces: tuple[str, str]) -> None:
    (house / 'tests' / 'test_it.py').write_text(
        HEADER + ''.join(pieces) + '\n')
    assert len(nothing_put_off(house)) == 1


def test_generated_files_are_not_ours(house: Path) -> None:
    for folder in ('build', '.tox', 'x.egg-info', 'cover'):
        (house / folder).mkdir()
        (house / folder / 'x.py').write_text('# TO' 'DO\n')
    (house / '.coverage').write_text('# TO' 'DO\n')
    for rule in RULES:
        assert rule(house) == []
