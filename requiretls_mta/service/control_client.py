"""The tool's end of the control socket: blocking, one request after the other."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from requiretls_mta.service.control import NAME
from requiretls_mta.service.unix_path import socket_path

TIMEOUT = 60.0
"""Seconds without an octet of the answer."""


class NotRunning(Exception):
    """No service answers at the state folder's control socket."""


class ServiceError(Exception):
    """The service could not do what was asked, or went away in the middle; the message says which."""


class ControlClient:
    """A connection with the service whose state folder this is; raises `NotRunning` when there is none."""

    def __init__(self, state: Path, timeout: float = TIMEOUT) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            with socket_path(state / NAME) as path:
                self._socket.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            self._socket.close()
            raise NotRunning(f"no service answers at {state / NAME}") from error
        except OSError as error:
            self._socket.close()
            raise ServiceError(f"{state / NAME}: {error.strerror or error}") from error
        self._answers = self._socket.makefile("rb")

    def ask(self, verb: str, message_id: str | None = None) -> Any:
        """The result of a request; raises `ServiceError`."""
        for _ in self._rows(verb, message_id):
            pass
        return self._result

    def rows(self) -> Iterator[dict[str, Any]]:
        """All queued messages, as `queue list --json` shows them; raises `ServiceError`."""
        return self._rows("rows", None)

    def close(self) -> None:
        """Hang up."""
        self._answers.close()
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, verb: str, message_id: str | None) -> Iterator[dict[str, Any]]:
        with self._troubles():
            self._socket.sendall(json.dumps({"verb": verb, "id": message_id}).encode("ascii") + b"\n")
            while line := self._answers.readline():
                answer = json.loads(line)
                if "row" in answer:
                    yield answer["row"]
                elif answer["ok"]:
                    self._result = answer["result"]
                    return
                else:
                    raise ServiceError(answer["error"])
        raise ServiceError("the service hung up")

    @contextlib.contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ServiceError(f"the service does not answer: {error}") from error
        except (ValueError, LookupError) as error:
            raise ServiceError("the service's answer makes no sense") from error
