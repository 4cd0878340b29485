"""The laboratory: the common parts of experiments, from options and training to the run folder and its page.

An experiment is a script with cells, in this order: options, data, networks and tasks, training (``study.train``),
figures (``page.add_figure``), and the page (``page.publish``). ``comparison.compare_runs`` puts several runs side by
side. Modules are imported one by one, and ``rnn_jax.lab.options`` does not load JAX.
"""

__all__ = []
