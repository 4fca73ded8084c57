"""The durable queue: its interface, and the embedded store on SQLite."""
