"""The window, on SDL's driver that shows nothing."""

from collections.abc import Iterator

import numpy as np
import pytest

from difftori.viewing.window import NoWindowError, Window, check_display

pygame = pytest.importorskip("pygame")
FRAME = np.full((48, 64, 3), 200, np.uint8)


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Iterator[Window]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with Window("cup-catch", fps=1000) as window:
        window.show(FRAME)
        yield window


def press(key: int) -> None:
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))


def test_a_frame_fills_the_window(window: Window) -> None:
    screen = pygame.display.get_surface()
    assert screen.get_size() == (64, 48)
    assert pygame.surfarray.array3d(screen).min() == 200


def test_a_frame_of_another_shape_keeps_its_proportions(window: Window) -> None:
    window.show(np.full((24, 24, 3), 90, np.uint8))
    shown = pygame.surfarray.array3d(pygame.display.get_surface())
    assert (shown[8:56] == 90).all()
    assert (shown[:7] == 0).all()


@pytest.mark.parametrize("key", ["K_ESCAPE", "K_q"])
def test_keys_close_it(window: Window, key: str) -> None:
    press(getattr(pygame, key))
    window.show(FRAME)
    assert window.closed
    window.show(FRAME)


def test_it_can_be_closed(window: Window) -> None:
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    window.show(FRAME)
    assert window.closed


def test_a_pause_holds_until_a_step_or_the_end(window: Window) -> None:
    press(pygame.K_SPACE)
    press(pygame.K_RIGHT)
    window.show(FRAME)
    assert window._paused
    assert not window.closed
    press(pygame.K_RIGHT)
    window.show(FRAME)
    press(pygame.K_SPACE)
    window.show(FRAME)
    assert not window._paused


def test_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(NoWindowError, match="no display"):
        check_display()


def test_a_display_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "no-such-driver")
    with pytest.raises(NoWindowError, match="cannot be used"):
        Window("cup-catch", fps=10)
