"""Whole machines: systemd as the first process, sshd, a network of their own; by systemd-nspawn.

::

    with machines(tmp_path, {"fra1": "10.77.0.11"}) as lan:
        with lan.space.inside():        # what this thread starts or connects to is in their network
            lan.ssh("fra1", "systemctl is-system-running")

What they have is Debian, made once for each list of packages (``build/machines``); what they write
lies in a folder of the test. They end with us, whatever becomes of us.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from common.runtime.tasks import die_with_parent
from tests.harness.netns import Space, internet

SUITE = "bookworm"
SOURCES = Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "iproute2", "procps", "kmod"),
    *("python3", "python3-apt", "python3-venv", "nginx-light", "certbot", "prometheus"),
)
"""What ansible and systemd want, and what the roles would install from the network."""

IDLE = ("nginx", "prometheus", "prometheus-node-exporter", "certbot.timer")
"""Services that only run once a role says so."""

CACHE = Path(__file__).parents[2] / "build/machines"
BRIDGE = "lan0"
GATEWAY = "10.77.0.1"
BOOT_TIMEOUT = 90.0
NETWORK = """[Match]
Name=host0
[Network]
Address={address}/24
Gateway={gateway}
"""


def image() -> Path:
    """Return the root of a machine; make it if it is not there (a minute and a half)."""
    digest = hashlib.sha256(" ".join((SUITE, *PACKAGES, *IDLE)).encode()).hexdigest()[:12]
    root = CACHE / digest
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        fresh = CACHE / f"{digest}.{os.getpid()}"
        sources = next(path for path in SOURCES if path.exists())
        options = ("--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io")
        include = f"--include={','.join(PACKAGES)}"
        run("mmdebstrap", *options, include, SUITE, str(fresh), str(sources))
        run("systemctl", f"--root={fresh}", "disable", *IDLE)
        run("systemctl", f"--root={fresh}", "enable", "systemd-networkd", "ssh")
        fresh.rename(root)
    return root


def run(*command: str) -> str:
    """Return what a program says; raises AssertionError with its last words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-3000:])
    return done.stdout


class Lan:
    """Machines on one network, and a namespace that is on it, too."""

    def __init__(self, folder: Path, space: Space) -> None:
        self.folder = folder
        self.space = space
        self.addresses: dict[str, str] = {}
        self.key = folder / "key"
        self._processes: list[subprocess.Popen[bytes]] = []
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        for command in (
            f"link add {BRIDGE} type bridge",
            f"address add {GATEWAY}/24 dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ):
            run(*space.command(["ip", *command.split()]))

    def boot(self, name: str, address: str, root: Path) -> None:
        """Start a machine; it is not waited for."""
        self.addresses[name] = address
        place = self.folder / name
        upper, work, merged = (place / part for part in ("upper", "work", "merged"))
        for made in (upper, work, merged):
            made.mkdir(parents=True)
        written = {
            "etc/hostname": f"{name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {name}\n",
            "etc/systemd/network/10-host0.network": NETWORK.format(
                address=address, gateway=GATEWAY
            ),
        }
        for path, text in written.items():
            (upper / path).parent.mkdir(parents=True, exist_ok=True)
            (upper / path).write_text(text)
        keys = upper / "root/.ssh"
        keys.mkdir(parents=True, mode=0o700)
        (upper / "root").chmod(0o700)
        shutil.copy(self.key.with_suffix(".pub"), keys / "authorized_keys")
        mount = f"mount -t overlay overlay -o lowerdir={root},upperdir={upper},workdir={work}"
        nspawn = (
            f"systemd-nspawn --quiet --boot --register=no --keep-unit --link-journal=no"
            f" --machine={name} --directory={merged} --network-bridge={BRIDGE}"
        )
        parent = os.getpid()
        with (self.folder / f"{name}.log").open("wb") as log:
            # The mount is its own, and so is gone with it.
            command = ["unshare", "--mount", "sh", "-c", f"{mount} {merged} && exec {nspawn}"]
            process = subprocess.Popen(
                self.space.command(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: die_with_parent(parent),
            )
        self._processes.append(process)

    def command(self, name: str, *words: str) -> list[str]:
        """Return the command line that runs something on a machine."""
        options = [option for word in SSH for option in ("-o", word)]
        return ["ssh", "-q", *options, "-i", str(self.key), f"root@{self.addresses[name]}", *words]

    def ssh(self, name: str, command: str) -> str:
        """Return what a command says on a machine; raises AssertionError if it fails."""
        return run(*self.space.command(self.command(name, command)))

    def wait(self) -> None:
        """Wait until all machines answer."""
        deadline = time.monotonic() + BOOT_TIMEOUT
        for name in self.addresses:
            command = self.space.command(self.command(name, "true"))
            while subprocess.run(command, capture_output=True, check=False).returncode:
                log = self.folder / f"{name}.log"
                assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
                time.sleep(0.2)

    def close(self) -> None:
        """End all of them."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


SSH = (
    *("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=5"),
    *("IdentitiesOnly=yes", "BatchMode=yes"),
)


@contextlib.contextmanager
def machines(folder: Path, addresses: Mapping[str, str]) -> Iterator[Lan]:
    """Machines that answer ssh, by their names and addresses in 10.77.0.0/24."""
    root = image()
    with internet(1) as (space,):
        lan = Lan(folder, space)
        try:
            for name, address in addresses.items():
                lan.boot(name, address, root)
            lan.wait()
            yield lan
        finally:
            lan.close()
