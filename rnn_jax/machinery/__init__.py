"""What no equation needs to know: checks, equal factories, compiled calls, precision, layouts over a mesh."""

__all__ = []
