"""Programs that run in a consumer's own environment. They import nothing of steerkit, which is not installed there.

They have a folder of their own because Python puts a program's folder first on its path, where a module of ours
would hide a package of theirs.
"""
