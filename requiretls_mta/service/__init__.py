"""Configuration, composition, process."""
