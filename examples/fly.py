"""The trained lander in a loop of one's own: ``python fly.py`` and the folder of its run."""

import sys

import gymnasium as gym
import soft_landing  # noqa: F401  (registers the environment)

from difftori import load_agent

agent = load_agent(sys.argv[1])
env = gym.make("SoftLanding-v0")
for episode in range(5):
    obs, _ = env.reset(seed=episode)
    agent.reset(seed=episode)
    over, total = False, 0.0
    while not over:
        obs, reward, terminated, truncated, info = env.step(agent.act(obs))
        total += reward
        over = terminated or truncated
    print(f"episode {episode}: return {total:.2f}, soft landing: {info['is_success']}")
