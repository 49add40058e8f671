"""Prompts computed once: rollouts, log-probabilities, decoding, answers."""
