"""Vocabulary and contract on disk: the words every other package speaks, and the tables that outlive a run.

Imports neither Ray, Spark, torch nor any media library, so an auditor can install it alone.
"""
