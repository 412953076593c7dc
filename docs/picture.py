#!/usr/bin/env python3
"""Draws docs/picture.svg: the way in and the way out, which meet only at the topic.

The README shows the picture. It has its own background and both colour schemes, so that it is legible on a light
and on a dark page. Only the standard library is used.

    python3 docs/picture.py           writes docs/picture.svg
    python3 docs/picture.py --check   fails if docs/picture.svg is not what this program draws
"""

import sys
from pathlib import Path

PICTURE = Path(__file__).with_name("picture.svg")
WIDTH, HEIGHT = 1040, 496

# Columns: the left and the right edge of each.
CLIENTS, PODS, TOPIC = (24, 112), (194, 846), (914, 1016)
STAGES = (212, 828)
TOP, BOTTOM = 58, 438

# A stage: its name, what it does, the width of its box.
IN = [
    ("web transport", "writes to sockets", 120),
    ("watcher", "one subscription", 112),
    ("hub", "finds watchers", 100),
    ("relay", "drops repeats", 96),
    ("broker feed", "every event", 100),
]
OUT = [
    ("web", "checks the token", 116),
    ("graphql mutation", "checks the input", 144),
    ("event publisher", "makes the event", 134),
    ("broker", "until acknowledged", 126),
]

# Class: light fill, light stroke, dark fill, dark stroke. "none" stays none.
COLOURS = {
    "page": ("#ffffff", "#d1d9e0", "#0d1117", "#30363d"),
    "pod": ("#f6f8fa", "#d1d9e0", "#151b23", "#3d444d"),
    "client": ("#ffffff", "#818b98", "#1c2330", "#7d8590"),
    "in": ("#ddf4ff", "#0969da", "#0f2747", "#4493f8"),
    "out": ("#fff1e5", "#bc4c00", "#33200f", "#f0883e"),
    "topic": ("#fbefff", "#8250df", "#231942", "#ab7df8"),
    "in-line": ("none", "#0969da", "none", "#4493f8"),
    "out-line": ("none", "#bc4c00", "none", "#f0883e"),
    "in-head": ("#0969da", "none", "#4493f8", "none"),
    "out-head": ("#bc4c00", "none", "#f0883e", "none"),
    "event": ("#c297ff", "none", "#6e4bb5", "none"),
    "text": ("#1f2328", "none", "#f0f6fc", "none"),
    "muted": ("#59636e", "none", "#9198a1", "none"),
    "in-text": ("#0550ae", "none", "#a5d6ff", "none"),
    "out-text": ("#953800", "none", "#ffc9a1", "none"),
    "topic-text": ("#6639ba", "none", "#e2c5ff", "none"),
}


def style():
    """Returns the style sheet: one rule a class, and its dark twin."""
    light = [f".{name}{{fill:{fill};stroke:{line}}}" for name, (fill, line, _, _) in COLOURS.items()]
    dark = [f".{name}{{fill:{fill};stroke:{line}}}" for name, (_, _, fill, line) in COLOURS.items()]
    return "\n".join(["<style>", *light, "@media (prefers-color-scheme:dark){", *dark, "}", "</style>"])


def box(kind, x, y, width, height, radius):
    """Returns a rounded box."""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"/>'


def text(kind, x, y, words, size, anchor="middle", weight="400"):
    """Returns one line of text."""
    return (
        f'<text class="{kind}" x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{words}</text>'
    )


def arrow(kind, start, end, y, head=7):
    """Returns a horizontal arrow from `start` to `end`, in either direction."""
    back = head if end < start else -head
    return (
        f'<path class="{kind}-line" stroke-width="2" d="M{start} {y}H{end + back}"/>'
        f'<path class="{kind}-head" d="M{end} {y}l{back * 1.3:.1f} {-head * 0.7:.1f}v{head * 1.4:.1f}z"/>'
    )


def places(stages):
    """Returns the left edge of each stage: the boxes fill the lane, with equal gaps."""
    left, right = STAGES
    gap = (right - left - sum(width for _, _, width in stages)) / (len(stages) - 1)
    edges = []
    for _, _, width in stages:
        edges.append(round(left))
        left += width + gap
    return edges


def lane(kind, stages, y, height, named):
    """Returns one way through a pod, from its clients to the topic, with an arrow between any two stages."""
    parts, edges, middle = [], places(stages), y + height / 2
    ends = [CLIENTS[1] + 12, *[edge + width for edge, (_, _, width) in zip(edges, stages)]]
    for left, right in zip(ends, [*edges, TOPIC[0]]):
        gap = 3 if named else 2
        start, end = (right - gap, left + gap) if kind == "in" else (left + gap, right - gap)
        parts.append(arrow(kind, start, end, middle, 7 if named else 5))
    for edge, (name, does, width) in zip(edges, stages):
        parts.append(box(kind, edge, y, width, height, 8 if named else height / 2))
        if named:
            centre = edge + width / 2
            parts.append(text(f"{kind}-text", centre, middle - 3, name, 13.5, weight="600"))
            parts.append(text("muted", centre, middle + 15, does, 11.5))
    return parts


def clients(y, height):
    """Returns the clients of one pod, as a stack: they are many."""
    left, right = CLIENTS
    stack = [box("client", left + shift, y + shift, right - left, height, 10) for shift in (12, 6, 0)]
    middle = y + height / 2
    return [*stack, text("text", (left + right) / 2, middle + 5, "clients", 15, weight="600")]


def pod(number, y, height):
    """Returns the frame of a pod and its name."""
    left, right = PODS
    return [
        box("pod", left, y, right - left, height, 14),
        text("text", STAGES[0], y + 24, f"pod {number}", 15, "start", "600"),
    ]


def topic():
    """Returns the topic, with events in it."""
    left, right = TOPIC
    centre = (left + right) / 2
    parts = [box("topic", left, TOP, right - left, BOTTOM - TOP, 22)]
    for step in range(7):
        for y in (TOP + 26 + 20 * step, BOTTOM - 34 - 20 * step):
            parts.append(box("event", left + 24, y, right - left - 48, 8, 4))
    parts.append(text("topic-text", centre, (TOP + BOTTOM) / 2 + 5, "one topic", 16, weight="600"))
    return parts


def drawing():
    """Returns the whole picture."""
    one, two, three = (TOP, 208), (TOP + 222, 72), (TOP + 308, 72)
    between_clients, between_topic = (PODS[0] + CLIENTS[1] + 12) / 2, (PODS[1] + TOPIC[0]) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-labelledby="title description" '
        'font-family="system-ui,-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif">',
        '<title id="title">Clients, pods and one topic</title>',
        '<desc id="description">The way in: topic, broker feed, relay, hub, watcher, web transport, client. '
        "The way out: client, web, graphql mutation, event publisher, broker, topic. "
        "The two ways meet only at the topic.</desc>",
        style(),
        box("page", 0.5, 0.5, WIDTH - 1, HEIGHT - 1, 12),
    ]
    for (left, right), words in ((CLIENTS, "many users"), (PODS, "any number of pods"), (TOPIC, "one broker")):
        parts.append(text("muted", (left + right) / 2, 38, words, 13))

    parts += topic()
    parts += [*pod(1, *one), *pod(2, *two), *pod(3, *three)]
    parts.append(text("in-text", STAGES[1], TOP + 24, "in: every pod reads every event", 12.5, "end"))
    parts.append(text("out-text", STAGES[1], TOP + 122, "out: a mutation publishes its event", 12.5, "end"))
    parts += lane("in", IN, TOP + 36, 54, named=True)
    parts += lane("out", OUT, TOP + 134, 54, named=True)
    for y, _ in (two, three):
        parts += lane("in", IN, y + 33, 9, named=False)
        parts += lane("out", OUT, y + 51, 9, named=False)
    parts += [*clients(TOP + 36, 152), *clients(two[0] + 12, 46), *clients(three[0] + 12, 46)]
    for kind, y, words in (("in", TOP + 54, ("result", "event")), ("out", TOP + 152, ("mutation", "event"))):
        for x, word in zip((between_clients, between_topic), words):
            parts.append(text(f"{kind}-text", x, y, word, 11.5))

    meet = "The two ways meet only at the topic: an event comes back through the feed, also to the pod that published it."
    parts.append(text("muted", WIDTH / 2, HEIGHT - 24, meet, 13.5))
    return "\n".join([*parts, "</svg>", ""])


def main():
    """Writes the picture, or compares it."""
    drawn = drawing()
    if sys.argv[1:] == ["--check"]:
        if not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != drawn:
            sys.exit("docs/picture.svg is not what docs/picture.py draws: run python3 docs/picture.py")
    else:
        PICTURE.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
