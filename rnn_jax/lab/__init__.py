"""The laboratory: what experiments share, from options and training to the run folder and its page.

An experiment is a script with cells, in this order: options, data, networks and tasks, training (``study.train``),
figures (``page.add_figure``), and the page (``page.publish``). Its modules are light to import one by one:
``rnn_jax.lab.options`` does not load JAX.
"""

__all__ = []
