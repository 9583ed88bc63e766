"""Contrast pairs: one coding task, answered once with a hack and once without."""
