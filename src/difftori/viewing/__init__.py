"""Watching an agent: pictures of its episodes and plans, as videos or in a window."""
