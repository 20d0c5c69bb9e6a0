"""The window, on SDL's driver that shows nothing."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pygame
import pytest

from difftori.config import ConfigError
from difftori.viewing.window import Window, WindowClosedError, require_display

FRAME = np.full((48, 64, 3), 200, np.uint8)


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Iterator[Window]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with closing(Window("cup-catch", fps=1000)) as window:
        window.show(FRAME)
        yield window


def press(key: int) -> None:
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))


def test_a_frame_fills_the_window(window: Window) -> None:
    screen = pygame.display.get_surface()
    assert screen.get_size() == (64, 48)
    assert pygame.surfarray.array3d(screen).min() == 200


@pytest.mark.parametrize(
    "event",
    [pygame.event.Event(pygame.QUIT), pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE)],
)
def test_it_can_be_closed(window: Window, event: pygame.event.Event) -> None:
    pygame.event.post(event)
    with pytest.raises(WindowClosedError):
        window.show(FRAME)


def test_a_pause_holds_until_a_step_or_the_end(window: Window) -> None:
    press(pygame.K_SPACE)
    press(pygame.K_RIGHT)
    window.show(FRAME)
    assert window._paused
    press(pygame.K_RIGHT)
    window.show(FRAME)
    press(pygame.K_SPACE)
    window.show(FRAME)
    assert not window._paused


def test_without_a_display_a_video_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    video = "for a video: python src/evaluate.py run=r save_video=true"
    monkeypatch.setenv("SDL_VIDEODRIVER", "no-such-driver")
    with pytest.raises(ConfigError, match=f"cannot be used.*; {video}"):
        require_display(Path("r"))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ConfigError, match=f"^this machine has no display .*; {video}$"):
        require_display(Path("r"))
