"""The certificates that a configuration names for its listeners, or the private one that stands in for them."""

from __future__ import annotations

import datetime
from pathlib import Path

from twisted.logger import Logger

from requiretls_mta.service.config import Config
from requiretls_mta.tls import server

_log = Logger()


def load_certificates(config: Config, now: float) -> server.Loaded:
    """Read all, and warn of what is amiss; `now` in Unix seconds. Raises `tls.server.CertificateError` or `OSError`."""
    tls, today = config.tls, datetime.datetime.fromtimestamp(now, datetime.UTC)
    certificate: Path
    key: Path
    if tls.certificate is not None and tls.key is not None:
        certificate, key = tls.certificate, tls.key
    else:
        certificate, key = server.private_files(config.state / "tls", config.hostname, today)
        _log.warn("no certificate is configured: {file} of a private CA is used", file=str(certificate))
    named = [server.Named(names=frozenset(sni.names), certificate=sni.certificate, key=sni.key) for sni in tls.sni]
    loaded = server.load(certificate=certificate, key=key, minimum=tls.minimum, named=named)
    for warning in loaded.warnings(today):
        _log.warn("{warning}", warning=warning)
    return loaded
