"""Where other frameworks meet our engine: adapters that they import, never the other way round."""
