"""Whose names and codes are emitted."""

import pytest

from requiretls_mta.message.header import TLSRequired, tls_required
from requiretls_mta.message.profile import SUPPORT_REQUIRED, Profile
from requiretls_mta.message.reply import Reply


@pytest.mark.parametrize(
    ("profile", "field", "reply"),
    [
        ("rfc8689", "TLS-Required: No", Reply(550, "5.7.30", "REQUIRETLS support required: why")),
        ("draft-03", "RequireTLS: NO", Reply(530, "5.7.4", "REQUIRETLS needed: why")),
    ],
)
def test_each_profile_has_its_names(profile, field, reply):
    """RFC 8689 3 and 7, and the draft's sections of the same subjects."""
    assert Profile(profile).optional_field == field
    assert Profile(profile).support_required("why") == reply
    assert reply.enhanced in SUPPORT_REQUIRED


@pytest.mark.parametrize("profile", Profile)
def test_what_is_emitted_is_read_by_either(profile):
    """Both names are read, whatever the profile."""
    assert tls_required(f"{profile.optional_field}\r\n".encode()) is TLSRequired.NO
