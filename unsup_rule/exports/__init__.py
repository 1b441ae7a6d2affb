"""Frozen networks for other frameworks, which are imported when asked for."""
