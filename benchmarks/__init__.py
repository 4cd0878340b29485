"""Timings against the code that a user would write without this library: one script for each question."""
