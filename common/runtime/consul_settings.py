"""Settings of the Consul that keeps the cluster's registry."""

import os
from pathlib import Path

from common.errors import ConfigError
from common.runtime.loader import Settings
from common.runtime.units import Duration


class ConsulSettings(Settings, frozen=True):
    """``[node.consul]``: the Consul agent that the node talks to, if it uses Consul."""

    address: str = ""
    """``HOST:PORT`` or ``https://HOST:PORT`` of the agent on this machine, usually
    ``127.0.0.1:8500``. Without one the nodes of this machine find each other through the folder
    ``node.registry``."""

    token: str = ""
    """ACL token. Better in ``token_file``, or in the environment."""

    token_file: str = ""
    """File that holds the ACL token. Default: the credential ``consul.token`` if systemd has passed
    one (``LoadCredential`` of the unit)."""

    ca: str = ""
    """PEM file of the authority that signed the agent's certificate; the system's if not set."""

    cert: str = ""
    """PEM file of the client certificate, if the agent asks for one."""

    key: str = ""
    """PEM file of its private key."""

    prefix: str = "headwater"
    """What names of services and keys begin with; one for each cluster on the same Consul."""

    primary: str = ""
    """Datacenter whose Consul keeps the definitions of streams; that of the agent if not set."""

    ttl: Duration = Duration(15)
    """A node that has not reported to its agent for so long is taken to be dead."""

    check: Duration = Duration(5)
    """How often the agent asks the node whether it is well."""

    lock_delay: Duration = Duration(1)
    """How long a stream whose origin died is kept from others."""

    timeout: Duration = Duration(2)
    """How long an answer may take."""

    wait: Duration = Duration(55)
    """How long a question waits for news."""

    keep: Duration = Duration(600)
    """How long a node is still counted on whose agent is not heard of any more, and what this node
    knew when it is started while its agent is away."""

    def secret(self) -> str:
        """Return the ACL token; empty if there is none.

        Raises:
            ConfigError: If its file cannot be read.
        """
        given = self.token or os.environ.get("CONSUL_HTTP_TOKEN", "")
        file = self.token_file or ("" if given else credential("consul.token"))
        if not file:
            return given
        try:
            return Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("node.consul.token_file", str(error)) from error


def credential(name: str) -> str:
    """Return the path of a secret that systemd has passed to this unit, empty if it has not.

    Its commands besides the main one (``ExecReload``) know the folder, but may not look into it.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = os.path.join(folder, name)
    return path if folder and os.access(path, os.R_OK) else ""
