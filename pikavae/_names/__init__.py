"""Lead the names `flows` and `tasks` to the packages that are installed beside pikavae.

This folder comes first on the path of modules. Python searches PYTHONPATH before the installed packages, and other
projects have packages of these two names. The folder holds nothing else, so no other import changes.
"""
