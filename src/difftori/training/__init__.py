"""The loop of a run: acting, learning, evaluating, and how a run begins and ends."""
