"""What ansible's roles say about themselves."""

import re
from pathlib import Path

import pytest

from common.runtime.loader import ROLES as NODES
from tests.arch.sources import ROOT

ANSIBLE = ROOT / "deploy/ansible"
ROLES = sorted(path.name for path in (ANSIBLE / "roles").iterdir())


def test_the_roles_are_there() -> None:
    assert {*NODES, "consul", "monitoring", "proxy", "certificates", "node"} == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_each_variable_has_a_default_and_is_specified(role: str) -> None:
    folder = ANSIBLE / "roles" / role
    defaults = re.findall(r"^(\w+):", (folder / "defaults/main.yml").read_text(), re.MULTILINE)
    specs = (folder / "meta/argument_specs.yml").read_text()
    assert re.findall(r"^      (\w+):$", specs, re.MULTILINE) == defaults
    assert all(name.startswith(f"{role}_") for name in defaults)
    assert specs.count("        description:") == len(defaults)


def test_only_modules_that_come_with_ansible_are_used() -> None:
    for path in [*ANSIBLE.glob("playbooks/**/*.yml"), *ANSIBLE.glob("roles/*/[th]*/*.yml")]:
        modules = re.findall(r"^ +((?:\w+\.){2,}\w+):", path.read_text(), re.MULTILINE)
        assert all(module.startswith("ansible.builtin.") for module in modules), path


@pytest.mark.parametrize("size", ["one", "three", "ten"])
def test_the_examples_have_as_many_machines_as_they_say(size: str) -> None:
    folder = ANSIBLE / "inventories" / size
    text = (folder / "hosts.yml").read_text()
    hosts = re.findall(r"^    (\w+): \{ansible_host: \S+, datacenter: (\w+)\}$", text, re.MULTILINE)
    assert len(hosts) == {"one": 1, "three": 3, "ten": 10}[size]
    assert len({datacenter for _, datacenter in hosts}) == (1 if size == "one" else 2)
    assert Path(folder / "group_vars/all/main.yml").is_file()
