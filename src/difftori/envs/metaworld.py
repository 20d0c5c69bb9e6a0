"""Meta-World: fifty tasks of a robot arm (V3), with the goal in the observation."""

from typing import Any

import numpy as np

from difftori.envs.base import SimStep, check_camera
from difftori.envs.divergence import refuse_divergence
from difftori.envs.rendering import check_mujoco_rendering, importing_mujoco, prepare_rendering
from difftori.sections import TaskConfig

ROBOT = "sawyer"
_SHADOW_MAP_SIZE = 1024  # the model's 4096 takes half of a frame's time and shows no more


def make_simulator(task: TaskConfig) -> "MetaWorld":
    """Load a task; metaworld itself is imported here.

    Raises:
        ValueError: Meta-World has no such task.
        RuntimeError: metaworld is not installed, or pixels are wanted and nothing can render.
    """
    if task.from_pixels:
        prepare_rendering()
        check_mujoco_rendering()
    try:
        with importing_mujoco():
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"task={task.task} needs the package metaworld, which cannot be imported ({error}): "
            "pip install -r requirements.txt"
        ) from error
    if task.domain != ROBOT or task.domain_task not in ALL_V3_ENVIRONMENTS:
        known = ", ".join(sorted(f"{ROBOT}/{name}" for name in ALL_V3_ENVIRONMENTS))
        raise ValueError(
            f"Meta-World has no task {task.domain}/{task.domain_task}: choose from {known}"
        )
    return MetaWorld(task.domain_task, task.camera)


class MetaWorld:
    """One task in environment steps; see `Simulator`. Its episodes never end early."""

    can_terminate = False

    def __init__(self, name: str, camera: int = 0) -> None:
        """``name`` is Meta-World's own, with the version: ``drawer-open-v3``."""
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self._mujoco = mujoco
        # Without a handler MuJoCo writes MUJOCO_LOG.TXT; `step` raises what it would say there.
        mujoco.set_mju_user_warning(_say_nothing)
        env: Any = ALL_V3_ENVIRONMENTS[name]()
        # What Meta-World's classes with an observable goal do, less their own seeding.
        env._partially_observable = False
        del env.sawyer_observation_space
        env._set_task_called = True
        env.seeded_rand_vec = True
        check_camera(camera, env.model.ncam)
        self._env = env
        self._bounds = env.sawyer_observation_space
        self._camera = camera
        self.step_seconds = float(env.dt)
        self._renderers: dict[tuple[int, int], Any] = {}
        self._model_start = [field.copy() for field in self._movable()]
        env.model.vis.quality.shadowsize = _SHADOW_MAP_SIZE
        self.action_dim = int(env.action_space.shape[0])
        self.state_dim = int(self._bounds.shape[0])
        self.max_steps = int(env.max_path_length)
        self._obs = np.zeros(self.state_dim, np.float32)

    def reset(self, seed: int) -> None:
        env = self._env
        for field, start in zip(self._movable(), self._model_start, strict=True):
            field[:] = start
        env.seed(seed)
        # Tasks read positions off the simulation before it has followed what they have drawn.
        # Doing the reset again with the same draw, as Meta-World's benchmarks do, settles them.
        for drawn in (False, True):
            env._freeze_rand_vec = drawn
            self._mujoco.mj_resetData(env.model, env.data)
            env.reset_model()
        env.curr_path_length = 0
        # Some tasks move a joint last of all.
        self._mujoco.mj_forward(env.model, env.data)
        obs = env._get_obs()
        half = (obs.size - 3) // 2
        obs[half:-3] = obs[:half]  # there is no earlier step
        self._obs = self._clipped(obs)
        refuse_divergence(env.data)

    def step(self, action: np.ndarray) -> SimStep:
        obs, reward, _, _, info = self._env.step(np.array(action, np.float32))
        refuse_divergence(self._env.data)
        self._obs = obs.astype(np.float32)
        return SimStep(float(reward), terminated=False, success=bool(info["success"]))

    def state(self) -> np.ndarray:
        """Hand, gripper and objects, the same one step before, and the goal: ``[39]`` float32."""
        return self._obs.copy()

    def render(self, height: int, width: int) -> np.ndarray:
        check_mujoco_rendering()
        model, data = self._env.model, self._env.data
        if (height, width) not in self._renderers:
            # MuJoCo refuses a picture larger than the model's frame buffer, 480 by 640
            buffer = model.vis.global_
            buffer.offheight = max(buffer.offheight, height)
            buffer.offwidth = max(buffer.offwidth, width)
            self._renderers[height, width] = self._mujoco.Renderer(model, height, width)
        renderer = self._renderers[height, width]
        renderer.update_scene(data, camera=self._camera)
        image = renderer.render()
        return np.ascontiguousarray(image[::-1, ::-1]) if self._is_upside_down() else image

    def close(self) -> None:
        while self._renderers:
            self._renderers.popitem()[1].close()
        self._env.close()

    def _movable(self) -> tuple[np.ndarray, ...]:
        """What tasks move in the model itself: their fixed bodies, and marks of the goal."""
        model = self._env.model
        return model.body_pos, model.body_quat, model.site_pos

    def _clipped(self, obs: np.ndarray) -> np.ndarray:
        """As Meta-World clips every observation but the first."""
        return np.clip(obs, self._bounds.low, self._bounds.high).astype(np.float32)

    def _is_upside_down(self) -> bool:
        """Whether the camera stands on its head, as Meta-World's corner cameras do."""
        model, data = self._env.model, self._env.data
        fixed = model.cam_bodyid[self._camera] == 0
        return bool(fixed and data.cam_xmat[self._camera][7] < 0)


def _say_nothing(message: str) -> None:
    pass
