"""Suites: what is asked of a model, with what is needed to judge the answers."""
