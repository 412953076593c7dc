#!/usr/bin/env python3
"""Draws the diagrams of the documents, in the style and the colours of docs/picture.svg.

    python3 docs/diagrams/draw.py           writes docs/diagrams/*.svg
    python3 docs/diagrams/draw.py --check   fails if a diagram is not what this program draws
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.dont_write_bytecode = True  # no cache beside the documents
sys.path.insert(0, str(FOLDER.parent))

from picture import box, style, text  # noqa: E402

FONT = "system-ui,-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif"


def line(kind, *points, dashed=False, head=True):
    """Returns an arrow along these points. Its last part is horizontal or vertical."""
    (x, y), (before_x, before_y) = points[-1], points[-2]
    across, down = (x > before_x) - (x < before_x), (y > before_y) - (y < before_y)
    end = (x - 6 * across, y - 6 * down) if head else (x, y)
    path = "L".join(f"{a} {b}" for a, b in [*points[:-1], end])
    dash = ' stroke-dasharray="5 5"' if dashed else ""
    parts = [f'<path class="{kind}-line" stroke-width="2"{dash} d="M{path}"/>']
    if head:
        wing = f"l{-9 * across - 5 * abs(down)} {-9 * down - 5 * abs(across)}"
        parts.append(f'<path class="{kind}-head" d="M{x} {y}{wing}{"h10" if down else "v10"}z"/>')
    return "".join(parts)


def named(kind, x, y, width, height, name, does=""):
    """Returns a box with a name in it, and below the name what it does."""
    colour = f"{kind}-text" if kind in ("in", "out", "topic") else "text"
    middle = y + height / 2
    parts = [box(kind, x, y, width, height, 10)]
    parts.append(text(colour, x + width / 2, middle - (3 if does else -5), name, 14, weight="600"))
    if does:
        parts.append(text("muted", x + width / 2, middle + 15, does, 11.5))
    return "".join(parts)


def four_pods():
    """One mutation, one topic, four pods: who receives the event, and why."""
    parts = [named("topic", 40, 30, 880, 52, "one topic")]
    users = [
        ("ZOWI", "out", "author: left out"),
        ("ZOLO", "in", "at location 3"),
        ("ZEWI", "in", "its organisation owns 3"),
        ("ZELO", "client", "not told: location 1"),
    ]
    for n, (user, kind, why) in enumerate(users):
        x = 40 + n * 230
        middle = x + 95
        parts.append(named("pod", x, 150, 190, 62, f"pod {n + 1}", "has its own feed"))
        parts.append(named(kind, x, 292, 190, 62, user, why))
        parts.append(line("in", (middle + 30, 82), (middle + 30, 150)))
        if kind == "in":
            parts.append(line("in", (middle + 30, 212), (middle + 30, 292)))
    parts.append(line("out", (105, 292), (105, 212)))
    parts.append(line("out", (105, 150), (105, 82)))
    parts.append(text("out-text", 112, 257, "mutation", 12, "start"))
    parts.append(text("out-text", 98, 121, "event", 12, "end"))
    parts.append(text("in-text", 402, 257, "result", 12, "start"))
    parts.append(text("in-text", 632, 257, "result", 12, "start"))
    for n in range(4):
        parts.append(text("in-text", 172 + n * 230, 121, "event", 12, "start"))
    parts.append(text("muted", 480, 388, "ZOWI shares a template with location 3. Every pod gets the event.", 13))
    return 960, 412, "Four pods on one topic", parts


def drain_and_resume():
    """A sequence: a pod drains, its client goes on at another one and gets what it missed."""
    columns = {"client": 110, "pod 1": 350, "pod 2": 590, "topic": 830}
    kinds = {"client": "client", "pod 1": "pod", "pod 2": "pod", "topic": "topic"}
    parts = []
    for name, x in columns.items():
        parts.append(f'<path class="client" stroke-dasharray="3 5" d="M{x} 70V452"/>')
        parts.append(named(kinds[name], x - 70, 28, 140, 42, name))

    def step(y, start, end, words, kind="in"):
        a, b = columns[start], columns[end]
        parts.append(line(kind, (a, y), (b - (4 if b > a else -4), y)))
        # Beside the outermost column, so that no other column crosses the words.
        middle = 230 if "client" in (start, end) else 710
        parts.append(text(f"{kind}-text", middle, y - 7, words, 12.5))

    step(104, "topic", "pod 1", "event A")
    step(136, "pod 1", "client", "A, cursor a")
    parts.append(named("out", 280, 158, 140, 30, "SIGTERM: drain"))
    step(216, "pod 1", "client", "close 1012: come back", "out")
    step(250, "topic", "pod 2", "event B")
    parts.append(text("muted", 120, 254, "waits a random time", 12, "start"))
    step(296, "client", "pod 2", "subscribe, after: a", "out")
    step(336, "pod 2", "client", "A again: dropped by eventId")
    step(368, "pod 2", "client", "B, replayed, cursor b")
    step(406, "topic", "pod 2", "event C")
    step(436, "pod 2", "client", "C live, cursor c")
    return 960, 480, "A pod drains, and its client resumes on another pod", parts


def window_and_gap():
    """A time line: the replay window, a cursor inside of it, and one that is too old."""
    parts = [box("in", 380, 92, 500, 76, 12), line("in", (40, 130), (920, 130))]
    parts.append(text("in-text", 630, 84, "replay window of every pod: 10 minutes less 5 seconds", 13))
    parts.append(text("muted", 920, 154, "now", 13))
    for n, x in enumerate(range(80, 880, 50)):
        parts.append(f'<circle class="event" cx="{x}" cy="130" r="8"/>')
    # A cursor in the window.
    parts.append(box("in-head", 627, 106, 3, 84, 1))
    parts.append(text("in-text", 628, 208, "cursor b", 13, weight="600"))
    parts.append(line("in", (560, 236), (880, 236)))
    parts.append(text("in-text", 720, 258, "replayed: all after b, then live", 12.5))
    parts.append(box("in", 560, 218, 68, 12, 4))
    parts.append(text("muted", 550, 240, "from 15 s before b: repeats, by eventId", 12, "end"))
    # A cursor before it.
    parts.append(box("out-head", 197, 106, 3, 84, 1))
    parts.append(text("out-text", 198, 208, "cursor a", 13, weight="600"))
    parts.append(line("out", (198, 306), (880, 306), dashed=True))
    parts.append(text("out-text", 540, 298, "first a gap notice: extensions.gap, data null. Then live", 12.5))
    parts.append(text("muted", 540, 328, "Events before the window are missing, so the client queries the present state.", 12.5))
    parts.append(text("text", 480, 42, "What a pod replays from a cursor", 16, weight="600"))
    return 960, 352, "Cursor, replay window and gap", parts


def gke():
    """The parts on Google Kubernetes Engine."""
    parts = [named("client", 30, 186, 120, 76, "clients", "WebSocket, SSE")]
    parts.append(named("in", 200, 186, 150, 76, "Gateway", "TLS, one address"))
    parts.append(line("in", (150, 224), (200, 224)))
    parts.append(box("pod", 400, 40, 300, 392, 14))
    parts.append(text("text", 420, 66, "GKE, namespace pubsub-relay", 14, "start", "600"))
    for n, (y, name) in enumerate(((90, "pod"), (184, "pod"), (278, "pod, added by load"))):
        parts.append(named("client", 470, y, 200, 66, name, "one Deployment, any zone"))
        parts.append(line("in", (350, 224), (380, 224), (380, y + 33), (470, y + 33)))
        parts.append(line("in", (760, y + 23), (670, y + 23)))
        parts.append(line("out", (670, y + 43), (820, y + 43)))
        parts.append(named("topic", 705, y + 6, 84, 34, "feed"))
    parts.append(text("muted", 550, 372, "autoscaler: CPU and connections", 12.5))
    parts.append(text("muted", 550, 392, "disruption budget, rollouts with drain", 12.5))
    parts.append(text("muted", 550, 412, "no volume, no state", 12.5))
    parts.append(named("topic", 820, 90, 110, 254, "Pub/Sub", "one topic"))
    for y in (96, 190, 284):
        parts.append(line("in", (820, y + 17), (789, y + 17)))
    parts.append(text("muted", 820, 372, "Workload Identity: no keys", 12.5))
    parts.append(text("muted", 820, 392, "Managed Prometheus: metrics", 12.5))
    parts.append(text("muted", 275, 290, "follows /readyz", 12.5))
    return 960, 460, "The relay on Google Kubernetes Engine", parts


DIAGRAMS = {
    "four-pods.svg": four_pods,
    "drain-resume.svg": drain_and_resume,
    "window-gap.svg": window_and_gap,
    "gke.svg": gke,
}


def drawing(diagram):
    """Returns a diagram as text."""
    width, height, title, parts = diagram()
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="title" font-family="{FONT}">'
    )
    page = box("page", 0.5, 0.5, width - 1, height - 1, 12)
    return "\n".join([begin, f'<title id="title">{title}</title>', style(), page, *parts, "</svg>", ""])


def main():
    """Writes the diagrams, or compares them."""
    for name, diagram in DIAGRAMS.items():
        path, drawn = FOLDER / name, drawing(diagram)
        if sys.argv[1:] != ["--check"]:
            path.write_text(drawn, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != drawn:
            sys.exit(f"docs/diagrams/{name} is not what docs/diagrams/draw.py draws: run it")


if __name__ == "__main__":
    main()
