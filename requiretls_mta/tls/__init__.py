"""Transport security: facts of a handshake, policies, and the judge that decides what a tagged message may do."""
