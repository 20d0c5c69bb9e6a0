"""A window that shows frames as they come."""

import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from difftori.config import ConfigError


class WindowClosedError(Exception):
    """The user has closed the window."""


def require_display(run: Path) -> None:
    """Raise ConfigError, which says how to make a video instead, if no window can be opened."""
    wanted = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in wanted):
        problem = "this machine has no display (DISPLAY is not set)"
    else:
        pygame = _import_pygame()
        try:
            pygame.display.init()
            pygame.display.quit()
            return
        except pygame.error as error:
            problem = f"the display cannot be used ({error})"
    raise ConfigError(f"{problem}; for a video: python src/evaluate.py run={run} save_video=true")


class Window:
    """Shows one frame after another at a steady pace."""

    def __init__(self, title: str, fps: float) -> None:
        """``fps`` is the most frames a second; a slower caller sets its own pace."""
        # SDL's own accelerated path would make its OpenGL context current in this thread, where
        # the simulator's renderer believes that its own still is
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
        self._fps = fps
        self._paused = False
        self._pygame = _import_pygame()
        self._clock = self._pygame.time.Clock()
        self._pygame.display.init()
        self._pygame.display.set_caption(f"{title}  (Space pauses, → one step, Esc closes)")

    def close(self) -> None:
        self._pygame.display.quit()

    def show(self, frame: np.ndarray) -> None:
        """Show ``[height, width, 3]`` uint8 when its time has come; stays here while paused.

        Raises WindowClosedError once the user has closed the window.
        """
        height, width = frame.shape[:2]
        display = self._pygame.display
        screen = display.get_surface() or display.set_mode((width, height))
        self._clock.tick(self._fps)
        screen.blit(self._pygame.image.frombuffer(frame.tobytes(), (width, height), "RGB"), (0, 0))
        display.flip()
        one_step = self._handle_events()
        while self._paused and not one_step:
            self._clock.tick(30)
            one_step = self._handle_events()

    def _handle_events(self) -> bool:
        """Do what the user asked for; True if one step was asked for."""
        pygame, one_step = self._pygame, False
        for event in pygame.event.get():
            key = event.key if event.type == pygame.KEYDOWN else None
            if event.type == pygame.QUIT or key == pygame.K_ESCAPE:
                raise WindowClosedError
            if key == pygame.K_SPACE:
                self._paused = not self._paused
            one_step = one_step or key == pygame.K_RIGHT
        return one_step


def _import_pygame() -> ModuleType:
    """pygame, without its greeting."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import pygame

    return pygame
