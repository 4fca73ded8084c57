"""The tool."""
