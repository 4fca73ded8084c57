"""The words of the house: addresses, replies, envelopes, messages and outcomes, as frozen values without I/O."""
