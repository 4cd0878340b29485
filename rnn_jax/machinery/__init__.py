"""Machinery below the equations: checks, factories, short texts, compiled calls, precision, layouts over a mesh."""

__all__ = []
