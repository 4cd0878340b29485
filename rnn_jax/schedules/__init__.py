"""Rollouts: one driver, and schedules that change its cost, never its values."""

from rnn_jax.schedules.choice import default_schedule
from rnn_jax.schedules.driver import SCHEDULES, outputs, rollout

__all__ = ["SCHEDULES", "default_schedule", "outputs", "rollout"]
