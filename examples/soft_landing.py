"""A lander that must touch the ground slowly: an environment of one's own, whole. In this folder:

    python ../src/train.py preset=small task=gym env_id=soft_landing:SoftLanding-v0

An action is the thrust, from nothing to 1.6 times the weight. The episode ends on the ground, with
a reward of 10 for a touch at no speed and next to none for a crash; every step costs a little.
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

SECONDS, GRAVITY = 0.1, 1.0


class SoftLanding(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 1 / SECONDS}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float32)  # height, speed
        self.action_space = Box(0.0, 1.6 * GRAVITY, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.height, self.speed = self.np_random.uniform(0.5, 1.0), 0.0
        return self._observation(), {}

    def step(self, action):
        self.speed += SECONDS * (float(action[0]) - GRAVITY)
        self.height += SECONDS * self.speed
        landed = self.height <= 0
        reward = 10 * np.exp(-((self.speed / 0.3) ** 2)) if landed else -0.05
        return self._observation(), reward, landed, False, {"is_success": reward > 5}

    def _observation(self):
        return np.array([self.height, self.speed], np.float32)

    def render(self):
        picture = np.full((120, 80, 3), (20, 24, 48), np.uint8)
        picture[110:] = (120, 110, 100)
        row = round(108 - 80 * np.clip(self.height, 0, 1.2))
        picture[row - 8 : row + 2, 34:46] = (230, 230, 230)
        return picture


gym.register("SoftLanding-v0", entry_point=SoftLanding, max_episode_steps=60)
