"""Talking to a Consul agent: the one module that uses py-consul.

Every call has a deadline and raises :exc:`ConsulDown` when the agent does not answer, has no
leader to ask, or answers nonsense: callers go on with what they knew. py-consul knows paths and
parameters; the connections are ours, because its own let errors pass without a deadline and hide
the headers that say how old an answer is.
"""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import consul.base
from consul.callback import CB
from consul.exceptions import ACLDisabled, ACLPermissionDenied, ConsulException

from common.errors import ConfigError, NodeUnavailable
from common.runtime.consul_settings import ConsulSettings

T = TypeVar("T")
Pair = dict[str, Any]
"""A key of Consul with ``Key``, ``Value``, ``Session`` if it is locked, and ``ModifyIndex``."""

_UNKNOWN_CHECK = "does not have associated TTL"

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer of Consul that are read. A longer one counts as none: the last known state
holds."""


class ConsulDown(NodeUnavailable):
    """Consul cannot be asked now."""


class ConsulDenied(NodeUnavailable):
    """The token does not allow it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question that waits for news brought."""

    index: int
    value: Any


class Agent:
    """The API of one Consul agent; make it in a running event loop.

    Raises:
        ConfigError: If the address or a file of the settings is no good.
    """

    def __init__(self, settings: ConsulSettings) -> None:
        self._timeout = float(settings.timeout)
        self._client = _Client(settings)
        self._client.token = settings.secret() or None  # and not what the environment says

    async def close(self) -> None:
        """Close all connections."""
        await self._client.http.close()

    async def ask(self, call: Callable[[consul.base.Consul], Any], timeout: float = 0.0) -> Any:
        """Make one call of py-consul within ``timeout`` seconds, else those of the settings.

        Raises:
            ConsulDown: If there is no good answer in time.
            ConsulDenied: If the token does not allow it.
        """
        return await self._within(timeout or self._timeout, call(self._client))

    async def _within(self, seconds: float, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await call
        except (ACLPermissionDenied, ACLDisabled) as error:
            reason = f"Consul's token does not allow it: {str(error) or 'denied'}"
            raise ConsulDenied(reason) from error
        except TimeoutError as error:
            raise ConsulDown(f"Consul did not answer within {seconds:g} s") from error
        except (ConsulException, aiohttp.ClientError, OSError, ValueError, LookupError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ConsulDown(f"Consul cannot be asked: {reason}") from error

    async def settings(self) -> tuple[str, str]:
        """Return the datacenter and the name of the agent."""
        tree = await self.ask(lambda client: client.agent.self())
        return str(tree["Config"]["Datacenter"]), str(tree["Config"]["NodeName"])

    async def datacenters(self) -> list[str]:
        """Return the names of all datacenters that are known, nearest first."""
        return [str(one) for one in await self.ask(lambda client: client.catalog.datacenters())]

    async def coordinates(self) -> Answer:
        """Return where the servers of all datacenters are; it cannot be waited for."""
        headers = self._client.prepare_headers()
        path = "/v1/coordinate/datacenters"
        call = self._client.http.get(CB.json(), path, headers=headers)
        return Answer(0, await self._within(self._timeout, call) or [])

    async def register(self, service: Mapping[str, Any]) -> None:
        """Make a service known to the agent; its checks replace those it had."""
        data = json.dumps(service)
        path, params = "/v1/agent/service/register", [("replace-existing-checks", "true")]
        await self._put(path, params, data)

    async def deregister(self, service: str) -> None:
        """Take a service out."""
        await self.ask(lambda client: client.agent.service.deregister(service))

    async def alive(self, check: str) -> bool:
        """Say that a TTL check passes; return whether the agent knows the check."""
        # Always the same words: another text would be a write to Raft.
        try:
            return bool(await self.ask(lambda client: client.agent.check.ttl_pass(check)))
        except ConsulDown as error:
            if _UNKNOWN_CHECK in str(error):
                return False
            raise

    async def maintain(self, service: str, enable: bool, reason: str) -> None:
        """Take a service of this agent into maintenance, or out of it."""
        await self.ask(lambda client: client.agent.service.maintenance(service, enable, reason))

    async def session(self, name: str, checks: list[str], lock_delay: float) -> str:
        """Return a new session that lives as long as the checks pass."""
        data = {
            "Name": name,
            "Checks": checks,
            "LockDelay": f"{int(lock_delay * 1000)}ms",
            "Behavior": "release",
        }
        made = await self._put("/v1/session/create", [], json.dumps(data))
        return str(made["ID"])

    async def session_lives(self, session: str) -> bool:
        """Return whether a session is still there."""
        _, found = await self.ask(lambda client: client.session.info(session))
        return bool(found)

    async def end_session(self, session: str) -> None:
        """End a session, and with it its locks."""
        await self.ask(lambda client: client.session.destroy(session))

    async def leader(self) -> bool:
        """Return whether the servers of this datacenter have a leader."""
        return bool(await self.ask(lambda client: client.status.leader()))

    async def read(self, key: str, datacenter: str = "", stale: bool = False) -> Pair | None:
        """Return what Consul has about a key, None if there is no such key."""
        how = "stale" if stale else "default"
        _, found = await self.ask(
            lambda client: client.kv.get(key, dc=datacenter or None, consistency=how)
        )
        return found if isinstance(found, dict) else None

    async def write(self, key: str, tree: Any, datacenter: str = "", **how: Any) -> bool:
        """Put a value as JSON; ``how`` is ``acquire``, ``release`` or ``cas``."""
        value = json.dumps(tree)
        put = await self.ask(lambda client: client.kv.put(key, value, dc=datacenter or None, **how))
        return bool(put)

    async def remove(self, key: str, datacenter: str = "", cas: int | None = None) -> bool:
        """Delete a key, with ``cas`` only if it has not changed since."""
        dc = datacenter or None
        return bool(await self.ask(lambda client: client.kv.delete(key, cas=cas, dc=dc)))

    async def watch_keys(self, prefix: str, datacenter: str, index: int, wait: float) -> Answer:
        """Return all keys below a prefix once they are newer than ``index``."""
        return await self._news(f"/v1/kv/{prefix}", datacenter, index, wait, [("recurse", "1")])

    async def watch_service(self, name: str, datacenter: str, index: int, wait: float) -> Answer:
        """Return all instances of a service with their checks once newer than ``index``."""
        return await self._news(f"/v1/health/service/{name}", datacenter, index, wait, [])

    async def _news(
        self, path: str, datacenter: str, index: int, wait: float, how: list[tuple[str, Any]]
    ) -> Answer:
        params = [*how, ("stale", "1"), ("dc", datacenter or None)]
        limit = self._timeout
        if index:
            params += [("index", index), ("wait", f"{int(wait * 1000)}ms")]
            limit += wait * 17 / 16
        headers = self._client.prepare_headers()
        call = self._client.http.get(
            CB.json(index=True, decode="Value"), path, params=params, headers=headers
        )
        found, value = await self._within(limit, call)
        return Answer(int(found), value or [])

    async def _put(self, path: str, params: list[tuple[str, Any]], data: str) -> Any:
        headers = self._client.prepare_headers()

        def read(response: consul.base.Response) -> Any:
            CB._status(response, allow_404=False)
            return json.loads(response.body) if response.body else None

        http = self._client.http
        call = http.put(read, path, params=params, headers=headers, data=data)
        return await self._within(self._timeout, call)


class _Client(consul.base.Consul):  # type: ignore[misc]
    """py-consul over connections of our own."""

    def __init__(self, settings: ConsulSettings) -> None:
        address = settings.address
        self._settings = settings
        try:
            url = urlsplit(address if "://" in address else f"http://{address}")
            host, port = url.hostname, url.port
        except ValueError as error:
            raise ConfigError("node.consul.address", str(error)) from error
        if url.scheme not in ("http", "https") or not host:
            reason = f"{address!r} is not HOST:PORT, nor https://HOST:PORT"
            raise ConfigError("node.consul.address", reason)
        port = port or (8501 if url.scheme == "https" else 8500)
        super().__init__(host, port, scheme=url.scheme)

    def http_connect(self, host: str, port: int, scheme: str, *_: Any, **__: Any) -> "_Http":
        tls = _tls(self._settings) if scheme == "https" else None
        return _Http(f"[{host}]" if ":" in host else host, port, scheme, tls)


def _tls(settings: ConsulSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
        if settings.cert:
            context.load_cert_chain(settings.cert, settings.key or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("node.consul", f"its certificates cannot be used: {error}") from error
    return context


class _Http(consul.base.HTTPClient):  # type: ignore[misc]
    def __init__(self, host: str, port: int, scheme: str, tls: ssl.SSLContext | None) -> None:
        super().__init__(host, port, scheme)
        # ``False`` would mean not to verify; for plain HTTP it is not looked at.
        connector = aiohttp.TCPConnector(ssl=tls or True, keepalive_timeout=30)
        nothing = aiohttp.ClientTimeout(total=None)  # every call has a deadline of its own
        self._session = aiohttp.ClientSession(connector=connector, timeout=nothing)

    async def _request(
        self, callback: Any, method: str, path: str, params: Any, headers: Any, data: Any = None
    ) -> Any:
        uri = self.uri(path, [(key, value) for key, value in params or [] if value is not None])
        async with self._session.request(method, uri, headers=headers, data=data) as response:
            body = await _body(response)
            return callback(consul.base.Response(response.status, response.headers, body))

    def get(
        self, callback: Any, path: str, params: Any = None, headers: Any = None, raw: bool = False
    ) -> Any:
        return self._request(callback, "GET", path, params, headers)

    def put(
        self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None
    ) -> Any:
        return self._request(callback, "PUT", path, params, headers, data)

    def delete(
        self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None
    ) -> Any:
        return self._request(callback, "DELETE", path, params, headers, data)

    def post(
        self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None
    ) -> Any:
        return self._request(callback, "POST", path, params, headers, data)

    def close(self) -> Any:
        return self._session.close()


async def _body(response: aiohttp.ClientResponse) -> str:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER:
            raise aiohttp.ClientPayloadError("the answer is too large")
    return body.decode()
