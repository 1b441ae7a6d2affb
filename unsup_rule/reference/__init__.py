"""The authors' program: its recordings, its names, its weights."""
