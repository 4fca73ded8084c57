"""requiretls-mta: the mail transfer agent that keeps the sender's promise (RFC 8689).

What applications embed is exported here, and imported only when it is asked for: the session's classes need
`twisted.mail.smtp`, which installs a reactor.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "RequireTLSESMTP": "requiretls_mta.smtp.server",
    "RequireTLSESMTPFactory": "requiretls_mta.smtp.factory",
    "load_config": "requiretls_mta.service.config",
    "make_service": "requiretls_mta.service.build",
    "send_mail": "requiretls_mta.relay.send",
}

__all__ = ["RequireTLSESMTP", "RequireTLSESMTPFactory", "__version__", "load_config", "make_service", "send_mail"]

if TYPE_CHECKING:
    from requiretls_mta.relay.send import send_mail
    from requiretls_mta.service.build import make_service
    from requiretls_mta.service.config import load_config
    from requiretls_mta.smtp.factory import RequireTLSESMTPFactory
    from requiretls_mta.smtp.server import RequireTLSESMTP


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
