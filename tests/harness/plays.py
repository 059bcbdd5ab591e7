"""Ansible as an operator runs it: the inventories that ship, with addresses of our machines."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.harness.machines import Lan

ROOT = Path(__file__).parents[2]
ANSIBLE = ROOT / "deploy/ansible"
PLAYBOOK = ROOT / "build/ansible/bin/ansible-playbook"
"""Of an environment of its own: ``make build/ansible/ready``, which ``make test-long`` does."""

VAULT = """---
vault_stream_key: sesame
vault_consul_gossip_key: "kM6yFhOaWJVxdMYY9s2u4A=="
"""


class Play:
    """The plays for one inventory."""

    def __init__(self, folder: Path, lan: Lan, name: str, addresses: Mapping[str, str]) -> None:
        """``addresses`` are those that ship, and ours."""
        self.lan = lan
        self.log = folder / "ansible.log"
        self.inventory = folder / "inventory"
        shutil.copytree(ANSIBLE / "inventories" / name, self.inventory)
        hosts = self.inventory / "hosts.yml"
        text = hosts.read_text()
        for shipped, ours in addresses.items():
            assert shipped in text
            text = text.replace(shipped, ours)
        hosts.write_text(text)
        (self.inventory / "group_vars/all/vault.yml").write_text(VAULT)
        self.variables: dict[str, object] = {
            "ansible_ssh_private_key_file": str(lan.key),
            "consul_program": shutil.which("consul"),
            "node_apt_update": False,
        }

    def add(self, name: str, text: str) -> None:
        """Add a file of hosts or, below ``group_vars``, of variables to the inventory."""
        path = self.inventory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def __call__(self, name: str, *options: str, **variables: object) -> str:
        """Run a play; return what ansible says."""
        command = [str(PLAYBOOK), "-i", str(self.inventory), f"playbooks/{name}.yml", *options]
        command += ["-e", json.dumps(self.variables | variables)]
        environment = {
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOG_PATH": str(self.log),
        }
        done = subprocess.run(
            self.lan.space.command(command),
            cwd=ANSIBLE,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (name, done.stdout[-6000:], done.stderr[-2000:])
        return done.stdout


def changes(said: str) -> dict[str, int]:
    """Return how many tasks changed something, by machine."""
    recap = said.partition("PLAY RECAP")[2]
    return {name: int(count) for name, count in re.findall(r"^(\S+) .*changed=(\d+)", recap, re.M)}
