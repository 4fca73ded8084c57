"""What all tests share: a loaded machine is no failure of a property.

`--hypothesis-profile=deep` searches for long: worth a night before a release, too long for every run.
"""

import os

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=5000)
# Where nothing may be skipped a commit is judged, and twice alike: to find by chance is for whoever develops.
settings.register_profile("judge", deadline=None, derandomize=True)
settings.load_profile("judge" if os.environ.get("REQUIRE_ALL") else "patient")
