"""Rollouts, log-probabilities and answers with every prompt computed once: the fast passes behind the learners."""
