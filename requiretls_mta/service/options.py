"""The options of `twistd requiretls-mta`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.logfile import LogFile

from requiretls_mta.service.config import Config, load_config
from requiretls_mta.service.config_errors import ConfigError
from requiretls_mta.service.embedded import embedded_default
from requiretls_mta.service.log import LogWriter, TwistedObserver


class Options(usage.Options):
    """Reads the configuration; when it is invalid, start-up ends here with status 1 and every error on stderr."""

    synopsis = "[--config FILE] [--set KEY=VALUE ...]"
    longdesc = "Without --config the embedded default starts: a try-out on loopback with its state in ./var."
    optParameters = [["config", "c", None, "The configuration, a TOML file"]]

    current: ClassVar[Options | None] = None
    """Those of this process, for `log_observer`."""
    config: Config
    """What was read."""
    log: LogWriter
    """The service's log, in the format and from the level on that the configuration says."""

    def __init__(self) -> None:
        super().__init__()
        self._sets: list[str] = []

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded default runs, for want of a configuration file."""
        return self["config"] is None

    def opt_set(self, setting: str) -> None:
        """Override one key of the configuration: KEY=VALUE, a dotted key and a TOML value; may be repeated."""
        self._sets.append(setting)

    def read(self) -> Config:
        """The configuration as its file says it now, with the same overrides; raises `ConfigError`."""
        if self["config"] is None:
            return embedded_default(self._folder, self._sets)
        return load_config(self._file, self._sets)

    def postOptions(self) -> None:
        """Check everything, and take over the log."""
        # Resolved before twistd changes the folder.
        self._folder = Path.cwd()
        self._file = self._folder / (self["config"] or "")
        try:
            self.config = self.read()
        except ConfigError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(1) from None
        self.log = LogWriter(self.config.log.format, self.config.log.level)
        parent: Any = self.parent
        # A logger or syslog that the operator asked twistd for stays in charge.
        if parent is not None and not parent.get("logger") and not parent.get("syslog"):
            Options.current = self
            parent["logger"] = f"{__name__}.{log_observer.__name__}"

    def open_log(self) -> ILogObserver:
        """Write where twistd would: its choice of place, our lines."""
        parent: Any = self.parent
        name = parent.get("logfile")
        if name == "-" or (parent.get("nodaemon") and not name):
            self.log.open(sys.stdout.buffer)
        else:
            self.log.open(LogFile.fromFullPath(name or "twistd.log"))
        return TwistedObserver(self.log)


def log_observer() -> ILogObserver:
    """What twistd's `--logger` takes, by name only; it is asked when the process begins to log."""
    assert Options.current is not None
    return Options.current.open_log()
