"""Figures of the report; each module draws from rows of results, or says what it lacks."""
