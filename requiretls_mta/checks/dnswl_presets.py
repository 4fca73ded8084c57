"""What is known of public lists, so that one line of configuration is enough: their codes and their habits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

ANY_CODE = ("127.[0..255].[0..255].[0..255]",)
ERROR_CODES = ("127.0.0.255", "127.255.255.[0..255]")


@attrs.frozen(kw_only=True)
class Preset:
    """What stands for the keys that a `[[dnswl]]` table does not have."""

    accept: tuple[str, ...] = ANY_CODE
    errors: tuple[str, ...] = ERROR_CODES
    selftest: Literal["ipv4", "both", "off"] = "ipv4"


_PRESETS: Mapping[str, Preset] = {
    # 127.0.CATEGORY.TRUST: categories from 2 on, trust none (0) to high (3). 127.0.0.255 to whoever asks too much.
    "list.dnswl.org": Preset(accept=("127.0.[2..15].[0..3]",)),
    # White, black and yellow in one: .1 is white, .5 "never block", and both test entries are listed.
    "hostkarma.junkemailfilter.com": Preset(accept=("127.0.0.1",), selftest="off"),
    # Reputation from 16 on; only good, very good and excellent recommend anybody.
    "wl.mailspike.net": Preset(accept=("127.0.0.[18..20]",), selftest="off"),
}


def preset(zone: str) -> Preset:
    """What is known of a list by the name under which everybody knows it; the defaults of the rest."""
    return _PRESETS.get(zone, Preset())
