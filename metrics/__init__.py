"""Scores as pure functions of arrays, each checked in the tests against a slow version of itself."""
