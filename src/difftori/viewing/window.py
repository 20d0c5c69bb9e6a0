"""A window that shows frames as they come."""

import os
import sys
import time
from types import TracebackType

import numpy as np

PACKAGE = "pygame-ce"
KEYS = "space pauses, → one step, Esc closes"


class NoWindowError(RuntimeError):
    """No window can be opened here; the message says why."""


def check_display() -> None:
    """Raise NoWindowError if there is nowhere to open a window, before anything slow."""
    try:
        game = _pygame()
    except ImportError as error:
        raise NoWindowError(f"a window needs pygame ({error}): pip install {PACKAGE}") from error
    wanted = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in wanted):
        raise NoWindowError("this machine has no display (DISPLAY is not set)")
    try:
        game.display.init()
        game.display.quit()
    except game.error as error:
        raise NoWindowError(f"the display cannot be used ({error})") from error


class Window:
    """Shows one frame after another at a steady pace, in a window that can be resized.

    ``closed`` becomes True when the user closes it; frames shown after that go nowhere.
    """

    def __init__(self, title: str, fps: float | int) -> None:
        """``fps`` is the most frames a second; slower callers set their own pace.

        Raises NoWindowError.
        """
        check_display()
        # SDL's own accelerated path would make its OpenGL context current in this thread, where
        # the simulator's renderer believes that its own still is
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
        self.closed = False
        self._title, self._period = title, 1.0 / fps
        self._game = _pygame()
        self._surface = None
        self._paused = False
        self._due = 0.0
        self._game.display.init()

    def __enter__(self) -> "Window":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._game.display.quit()

    def show(self, frame: np.ndarray) -> None:
        """Show ``[height, width, 3]`` uint8 when its time has come; stays here while paused."""
        if self.closed:
            return
        if self._surface is None:
            self._open(frame.shape[1], frame.shape[0])
        single_step = False
        while not self.closed and time.monotonic() < self._due:
            single_step |= self._look_at_events()
            time.sleep(max(0.0, min(0.02, self._due - time.monotonic())))
        self._due = max(self._due, time.monotonic() - self._period) + self._period
        self._draw(frame)
        single_step |= self._look_at_events()
        while self._paused and not self.closed and not single_step:
            time.sleep(0.02)
            single_step = self._look_at_events()
            self._draw(frame)

    def _open(self, width: int, height: int) -> None:
        game = self._game
        try:
            self._surface = game.display.set_mode((width, height), game.RESIZABLE)
        except game.error as error:
            raise NoWindowError(f"the display cannot be used ({error})") from error
        game.display.set_caption(f"{self._title}  ({KEYS})")

    def _draw(self, frame: np.ndarray) -> None:
        """The frame as large as the window lets it be, in its middle."""
        if self.closed:
            return
        game, screen = self._game, self._game.display.get_surface()
        height, width, _ = frame.shape
        picture = game.image.frombuffer(
            np.ascontiguousarray(frame).tobytes(), (width, height), "RGB"
        )
        scale = min(screen.get_width() / width, screen.get_height() / height)
        if scale != 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            picture = game.transform.smoothscale(picture, size)
        screen.fill((0, 0, 0))
        screen.blit(picture, picture.get_rect(center=screen.get_rect().center))
        game.display.flip()

    def _look_at_events(self) -> bool:
        """What the user did; True if one step was asked for."""
        game, step = self._game, False
        for event in game.event.get():
            key = event.key if event.type == game.KEYDOWN else None
            if event.type == game.QUIT or key in (game.K_ESCAPE, game.K_q):
                self.closed = True
            elif key == game.K_SPACE:
                self._paused = not self._paused
            elif key == game.K_RIGHT:
                step = True
        return step


def _pygame():  # type: ignore[no-untyped-def]
    """pygame, without its greeting."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import pygame

    return pygame
