"""Checks of the connecting client and its message, and the pipeline that runs them."""
