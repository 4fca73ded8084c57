"""Reports: delivery status notifications, and the subscribers of events."""
