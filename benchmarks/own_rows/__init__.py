"""Tuning on rows of one's own: eight generated files, and what their first run reaches."""
