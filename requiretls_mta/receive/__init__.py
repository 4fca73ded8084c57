"""From a session to the queue: admission, recipients, and who may send what."""
