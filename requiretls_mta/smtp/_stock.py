"""The one place that imports `twisted.mail.smtp`: doing so installs the default reactor and looks up our host name."""

from twisted.mail.imap4 import LOGINCredentials, PLAINCredentials
from twisted.mail.smtp import (
    ESMTP,
    SMTP,
    Address,
    IMessageDelivery,
    IMessageDeliveryFactory,
    SMTPBadRcpt,
    SMTPBadSender,
    SMTPFactory,
    SMTPServerError,
    User,
)

__all__ = [
    "ESMTP",
    "SMTP",
    "Address",
    "IMessageDelivery",
    "IMessageDeliveryFactory",
    "LOGINCredentials",
    "PLAINCredentials",
    "SMTPBadRcpt",
    "SMTPBadSender",
    "SMTPFactory",
    "SMTPServerError",
    "User",
]
