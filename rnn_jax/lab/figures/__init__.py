"""Figures. Every function returns a matplotlib figure, which a notebook displays, and saves nothing."""

from rnn_jax.lab.figures.bars import share_figure
from rnn_jax.lab.figures.classes import confusion_counts, confusion_figure, image_figure
from rnn_jax.lab.figures.curves import Curve, LearningCurve, curve_figure, learning_figure
from rnn_jax.lab.figures.gradients import Band, band_of, cost_figure, gain_figure, gradient_figure, lag_figure
from rnn_jax.lab.figures.style import COLOURS, Picture, figure_label, images_of, with_fonts
from rnn_jax.lab.figures.texts import alignment_figure, confidence_figure, draw_confidences

__all__ = [
    "COLOURS",
    "Band",
    "Curve",
    "LearningCurve",
    "Picture",
    "alignment_figure",
    "band_of",
    "confidence_figure",
    "confusion_counts",
    "confusion_figure",
    "cost_figure",
    "curve_figure",
    "draw_confidences",
    "figure_label",
    "gain_figure",
    "gradient_figure",
    "image_figure",
    "images_of",
    "lag_figure",
    "learning_figure",
    "share_figure",
    "with_fonts",
]
