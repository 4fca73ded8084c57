"""Delivery into mailboxes."""
