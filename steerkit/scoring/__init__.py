"""Scoring: what is measured on a completion, as small pure functions."""
