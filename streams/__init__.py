"""Faust apps, a file a stage."""
