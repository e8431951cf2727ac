"""Rendering: one issue or alert to the form of each channel; pure."""
