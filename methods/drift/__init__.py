"""Drift and KL of any method."""
