"""The peers, each driven by one script in an environment of its own; see `common` for how."""
