"""Losses over packed rows."""
