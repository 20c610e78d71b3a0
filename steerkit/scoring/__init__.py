"""Scoring: what is measured on a completion, as small pure functions; each declares its metrics (see `metrics`)."""

import importlib

# Scorers and their metrics stand in this order in tables and files, those of other packages behind them.
for _name in ("abstention", "answers", "lengths", "degeneration", "perplexity", "instructions", "twins"):
    importlib.import_module(f"steerkit.scoring.{_name}")
