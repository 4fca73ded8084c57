"""What `twistd requiretls-mta` runs: the service in a process of its own, with its signals, its clock and its log."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.service.config import Config
from requiretls_mta.service.config_notes import needs_restart, without_effect
from requiretls_mta.service.embedded import ensure_user, welcome
from requiretls_mta.service.mta import MTA
from requiretls_mta.service.options import Options


def makeService(options: Options) -> IService:
    """The service of these options; composes only, for twistd forks afterwards."""
    from twisted.internet import reactor  # noqa: PLC0415  # twistd has installed it

    from requiretls_mta.service.build import make_service  # noqa: PLC0415

    # Timers must not follow a clock that is set; this process is all ours.
    vars(reactor)["seconds"] = time.monotonic
    process: IService = Process(reactor, make_service(options.config, reactor, events=options.log), options)
    return process


def _calm_collector() -> None:
    """What was imported stays anyway, and thousands of messages in hand are no garbage: look for it less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


class Process(MultiService):
    """The MTA, and what belongs to its process: SIGHUP, the log, the exit status."""

    _log = Logger()

    def __init__(self, reactor: Any, mta: MTA, options: Options) -> None:
        super().__init__()
        self._reactor = reactor
        self._mta = mta
        self._options = options
        self._config: Config = options.config
        self._old_handler: Any = None
        self._password: str | None = None
        self._is_terminating = False
        mta.setServiceParent(self)
        mta.on_fatal = self._fatal
        mta.reread = options.read

    def privilegedStartService(self) -> None:
        """Bind and read; trouble ends the start with status 1 and one line."""
        if self._options.is_embedded:
            self._or_exit(self._ensure_user)
        self._or_exit(super().privilegedStartService)

    def startService(self) -> None:
        """Start, tell what listens where, and listen to SIGHUP."""
        _calm_collector()
        self._options.log.attach(self._reactor)
        self._or_exit(super().startService)
        for key in without_effect(self._config):
            self._log.warn("{key} has no effect yet: it is for a later version", key=key)
        if self._options.is_embedded:
            # A password belongs into no log, and sys.stdout is the log by now.
            print(welcome(self._config, self._password), file=sys.__stdout__, flush=True)
        for name, address in self._mta.listeners.addresses:
            self._log.info("listen.{name} is bound to {address}", name=name, address=str(address))
        self._old_handler = signal.signal(signal.SIGHUP, self._hang_up)
        # The reactor's own handler lets twistd die of the signal afterwards; a service that was stopped exits with 0.
        self._reactor.callWhenRunning(signal.signal, signal.SIGTERM, self._terminate)

    def stopService(self) -> Any:
        """Give the signal back, and stop."""
        if self._old_handler is not None:
            signal.signal(signal.SIGHUP, self._old_handler)
            self._old_handler = None
        return super().stopService()

    def _ensure_user(self) -> None:
        """The try-out's user, before the users are read."""
        self._password = ensure_user(self._config)

    def _terminate(self, number: int, frame: Any) -> None:
        # Supervisors and operators repeat themselves; a reactor can be stopped once.
        if not self._is_terminating:
            self._is_terminating = True
            self._log.info("SIGTERM: stopping")
            self._reactor.callFromThread(self._reactor.stop)

    def _hang_up(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        try:
            config = self._options.read()
            self._mta.reload(config)
        except Exception as error:
            # Whatever it is, the service goes on as it was.
            self._log.error("reload failed, all old values stay: {error}", error=str(error))
            return
        changed = needs_restart(self._config, config)
        if changed:
            self._log.warn("needs a restart: {keys}", keys=", ".join(changed))
        self._log.info("reloaded")

    def _or_exit(self, start: Callable[[], None]) -> None:
        try:
            start()
        except Exception as error:
            # No turn of the reactor comes any more in which the log could write what waits, or the reason.
            self._options.log.detach()
            # Errors with a text of their own for the operator end here; a bug keeps its traceback.
            if isinstance(error, OSError) or type(error).__module__.startswith("requiretls_mta."):
                raise SystemExit(f"requiretls-mta: {error}") from error
            raise

    def _fatal(self, failure: Failure) -> None:
        """Trouble after the reactor started: no half-alive service."""
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.stop()
