"""What experiments share: run folders, checkpoints, figures, pages."""

__all__ = []
