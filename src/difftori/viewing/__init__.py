"""Looking at a run's agent: its score, and its episodes and plans in a video or a window."""
