"""Prioritized replay of whole episodes."""
