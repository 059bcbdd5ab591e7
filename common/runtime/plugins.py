"""Find the protocols in a package: one file is one protocol.

Dropping a file into ``edge/outputs`` adds an output, deleting it removes it.
"""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import TypeVar

from common.runtime.logs import Log

log = Log("plugins")

T = TypeVar("T")

_OURS = ("common", "origin", "edge", "balancer")


def discover(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """Import every module of ``package`` and return its concrete ``base`` classes by file name.

    A protocol whose third-party library is not installed is left out with a warning, so that one
    missing wheel does not stop the node. A missing module of our own is an error.
    """
    found: dict[str, type[T]] = {}
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        try:
            module = importlib.import_module(info.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in _OURS:
                raise
            log.warning("protocol left out", extra={"protocol": info.name, "missing": error.name})
            continue
        for cls in vars(module).values():
            if _is_protocol(cls, base, module):
                found[info.name.rpartition(".")[2]] = cls
    return found


def _is_protocol(cls: object, base: type[T], module: ModuleType) -> bool:
    return (
        inspect.isclass(cls)
        and issubclass(cls, base)
        and cls.__module__ == module.__name__
        and not inspect.isabstract(cls)
    )
