"""Random command lines, made by a small grammar from a seed, held against one law; see `test_command_line.py`."""
