"""Out of the queue: schedule, routes, the MX walk."""
