"""Draws the README's pictures.

    python docs/make_pictures.py method
    python docs/make_pictures.py strip logs/…/evaluation/step_000020000_….mp4

`method` writes docs/method.svg, `strip` docs/strip.png: frames of a video, evenly spaced.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import imageio.v2 as imageio
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

FOLDER = Path(__file__).resolve().parent
CARD, INK, SOFT, LINE = "#fbfbfd", "#1f2530", "#667085", "#98a2b3"
LEARNED, LEARNED_EDGE = "#e3f0fd", "#2f7fc9"
PLAIN = "#eef0f4"
GRADIENT, GRADIENT_FILL = "#d6336c", "#fdebf1"
UPDATE = "#2b8a3e"


def method(path: Path) -> None:
    """The data flow and the two ways in which the networks learn."""
    figure = Figure((12, 6.3))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 120)
    axes.set_ylim(0, 63)
    axes.axis("off")
    # a card of its own: readable on light and on dark pages
    _box(axes, 0.6, 0.6, 118.8, 61.8, face=CARD, edge="#d0d5dd", radius=1.6)

    _box(axes, 3, 44, 13, 9, "observation\n$o_t$")
    _box(axes, 21, 44, 13, 9, "encoder $h$", learned=True)
    _box(axes, 21, 31, 13, 8, "policy $\\pi$\nfirst guess", learned=True)
    _rollout(axes)
    _solver(axes)
    _arrow(axes, (16, 48.5), (21, 48.5))
    _arrow(axes, (34, 48.5), (41.4, 48.5))
    _arrow(axes, (27.5, 44), (27.5, 39), "$z_0$")
    _arrow(axes, (34, 35), (42.5, 37.8), bend=-0.1)

    _box(axes, 3, 5, 15, 9, "replay buffer")
    _box(axes, 24, 5, 15, 9, "environment")
    _box(axes, 45, 5, 17, 9, "best iterate\nits first action acts")
    _box(
        axes, 70, 5, 20, 9, "policy-gradient loss\n$-\\min\\,Q^s_i(o_t,\\,\\hat a)$", gradient=True
    )
    _box(axes, 98, 5, 18, 9, "last iterate\nits first action $\\hat a$")
    _path(axes, [(88.5, 26), (88.5, 21.5), (53.5, 21.5), (53.5, 14)], INK)
    _arrow(axes, (45, 9.5), (39, 9.5))
    _arrow(axes, (24, 9.5), (18, 9.5))
    _arrow(axes, (107, 26), (107, 14))
    _arrow(axes, (98, 9.5), (90, 9.5))

    _path(axes, [(10.5, 14), (10.5, 24), (50, 24), (50, 27)], UPDATE)
    axes.text(11.5, 20.2, "model update: consistency,\nreward and value losses", color=UPDATE,
              size=9.5, va="center")  # fmt: skip
    _path(axes, [(80, 14), (80, 17.8), (97, 17.8), (97, 26)], GRADIENT, dashed=True)
    _path(axes, [(83, 31), (78, 31)], GRADIENT, dashed=True)
    _path(axes, [(40, 52.3), (34, 52.3)], GRADIENT, dashed=True)
    axes.text(3, 57.6, "- - ", color=GRADIENT, size=12, weight="bold", va="center")
    axes.text(
        6.2, 57.6,
        "gradient through the last iterations of the plan: trains encoder, dynamics, reward and "
        "latent critics",
        color=GRADIENT, size=10.5, va="center",
    )  # fmt: skip
    axes.add_patch(Rectangle((101.5, 56.9), 2, 1.6, facecolor=LEARNED, edgecolor=LEARNED_EDGE))
    axes.text(104.3, 57.6, "learned networks", color=INK, size=10.5, va="center")
    with mpl.rc_context({"svg.hashsalt": "difftori"}):
        figure.savefig(path, transparent=True, metadata={"Date": None})


def _rollout(axes: Axes) -> None:
    """The plan's latents, rewards and terminal value."""
    _box(axes, 40, 27, 38, 27.5, face="#ffffff", edge=LINE, radius=1.2)
    xs = (44, 53, 62, 71)
    for k, x in enumerate(xs):
        name = f"$z_{k}$" if k < 3 else "$z_H$"
        axes.add_patch(Circle((x, 48.5), 2.1, facecolor=PLAIN, edgecolor=INK, lw=1.1))
        axes.text(x, 48.5, name, ha="center", va="center", size=10.5, color=INK)
    for k, (x, after) in enumerate(pairwise(xs)):
        _arrow(axes, (x + 2.1, 48.5), (after - 2.1, 48.5))
        middle = (x + after) / 2
        axes.text(middle, 50.2, "$d$", ha="center", size=10, color=LEARNED_EDGE)
        axes.add_patch(
            Circle((middle, 39.5), 1.9, facecolor="#fff4e0", edgecolor="#d9822b", lw=1.1)
        )
        axes.text(middle, 39.5, f"$a_{k}$", ha="center", va="center", size=10, color=INK)
        _arrow(axes, (middle, 41.4), (middle, 48.2))
        axes.text(x - 1.0, 43.6, "$R$", ha="center", size=10, color=LEARNED_EDGE)
        _arrow(axes, (x, 46.4), (x, 45.2), small=True)
    axes.text(71, 43.6, "$\\min\\,Q_i$", ha="center", size=10, color=LEARNED_EDGE)
    _arrow(axes, (71, 46.4), (71, 45.2), small=True)
    axes.text(
        59, 33.6, "$G(a)=\\sum_{t<H}\\gamma^t R(z_t,a_t)+\\gamma^H\\min_i Q_i(z_H,\\pi(z_H))$",
        ha="center", size=10.5, color=INK,
    )  # fmt: skip
    axes.text(59, 29.2, "return of the plan, in the learned model", ha="center", size=9.5,
              color=SOFT)  # fmt: skip


def _solver(axes: Axes) -> None:
    """The optimizer's loop, and which of its iterations are differentiated."""
    _box(axes, 83, 26, 33, 28.5, face="#ffffff", edge=LINE, radius=1.2)
    axes.text(99.5, 51.3, "Levenberg–Marquardt (Theseus)", ha="center", size=11, weight="bold",
              color=INK)  # fmt: skip
    lines = (
        ("residual", "$r(a)=c-G(a)$"),
        ("damped step", "$(J^\\top J+\\lambda I)\\,\\delta=-J^\\top r$"),
        ("", "$a\\leftarrow a+\\eta\\,\\delta$"),
    )
    for k, (name, formula) in enumerate(lines):
        axes.text(85, 47.2 - 4 * k, name, size=9.5, color=SOFT, va="center")
        axes.text(96, 47.2 - 4 * k, formula, size=10.5, color=INK, va="center")
    count, kept, width = 10, 3, 2.4
    for k in range(count):
        face = GRADIENT_FILL if k >= count - kept else PLAIN
        edge = GRADIENT if k >= count - kept else LINE
        axes.add_patch(Rectangle((86 + 2.75 * k, 32.6), width, 2.4, facecolor=face, edgecolor=edge))
    axes.text(86, 30.2, "$K$ iterations", size=9.5, color=SOFT, va="center")
    axes.text(113.2, 30.2, "last $K_b$ keep\ntheir graph", size=9.5, color=GRADIENT, va="center",
              ha="right", linespacing=1.0)  # fmt: skip
    _arrow(axes, (78, 45), (83, 45), "$G,\\ \\partial G$")
    _arrow(axes, (83, 39.5), (78, 39.5), "$a$")


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str = "", *,
    learned: bool = False, gradient: bool = False, face: str = PLAIN, edge: str = LINE,
    radius: float = 0.9,
) -> None:  # fmt: skip
    if learned:
        face, edge = LEARNED, LEARNED_EDGE
    if gradient:
        face, edge = GRADIENT_FILL, GRADIENT
    style = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle=style, facecolor=face, edgecolor=edge, lw=1.2
        )
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=10.5, color=INK,
              linespacing=1.35)  # fmt: skip


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "", *,
    bend: float = 0.0, small: bool = False,
) -> None:  # fmt: skip
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7 if small else 11,
                        connectionstyle=f"arc3,rad={bend}", color=INK, lw=1.2, shrinkA=0,
                        shrinkB=0)
    )  # fmt: skip
    if label:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        vertical = start[0] == end[0]
        axes.text(x + (0.9 if vertical else 0), y + (0 if vertical else 1.0), label, size=9.5,
                  color=INK, ha="left" if vertical else "center",
                  va="center" if vertical else "bottom")  # fmt: skip


def _path(
    axes: Axes, points: list[tuple[float, float]], color: str, *, dashed: bool = False
) -> None:
    """A line along the points, with an arrow's head at its end."""
    style = (0, (4, 2)) if dashed else "-"
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, color=color, lw=1.7, ls=style, solid_joinstyle="round")
    axes.add_patch(
        FancyArrowPatch(_before(points), points[-1], arrowstyle="-|>", mutation_scale=13,
                        color=color, lw=0, shrinkA=0, shrinkB=0)
    )  # fmt: skip


def _before(points: list[tuple[float, float]]) -> tuple[float, float]:
    """A point shortly before the last one."""
    (x0, y0), (x1, y1) = points[-2:]
    return x1 - 0.02 * np.sign(x1 - x0), y1 - 0.02 * np.sign(y1 - y0)


def strip(video: Path, path: Path, count: int, size: int, seconds: float) -> None:
    """``count`` frames of the first ``seconds``, side by side, each ``size`` pixels high."""
    from PIL import Image, ImageDraw

    reader = imageio.get_reader(video)
    fps = reader.get_meta_data()["fps"]
    frames = [np.asarray(frame) for frame in reader.iter_data()]
    reader.close()
    frames = frames[: max(1, round(seconds * fps))]
    gap = np.zeros((size, 6, 4), np.uint8)
    pieces: list[np.ndarray] = []
    for index in np.linspace(0, len(frames) - 1, count).round().astype(int):
        picture = Image.fromarray(frames[index][:, : frames[index].shape[0]])
        picture = picture.resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")
        time = (8, size - 22), f"{index / fps:.1f} s"
        ImageDraw.Draw(picture).text(*time, fill="white", font_size=14)
        pieces += [np.asarray(picture), gap]
    Image.fromarray(np.concatenate(pieces[:-1], axis=1)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("method")
    film = commands.add_parser("strip")
    film.add_argument("video", type=Path)
    film.add_argument("--frames", type=int, default=8)
    film.add_argument("--size", type=int, default=180, help="pixels, height of each frame")
    film.add_argument("--seconds", type=float, default=1e9, help="of the video, from its start")
    arguments = parser.parse_args()
    if arguments.command == "method":
        path = FOLDER / "method.svg"
        method(path)
    else:
        path = FOLDER / "strip.png"
        if not arguments.video.is_file():
            parser.error(f"{arguments.video} is not a file")
        strip(arguments.video, path, arguments.frames, arguments.size, arguments.seconds)
    print(path)


if __name__ == "__main__":
    main()
