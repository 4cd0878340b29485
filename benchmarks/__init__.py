"""Timings against the code one would write without us: one module that measures, one script a question."""
