#!/usr/bin/env python3
"""The clients of ci/image: one that waits for a drain, the tutorial's four, and 100 that resume
while pods restart.

They speak graphql-transport-ws as stock clients do: after any end they reconnect, with the cursor
of the last result. They count an event as lost only if its mutation was acknowledged, and then
always.
"""
import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request

import websockets

MODE, PORT, *PODS = sys.argv[1:]
SUBSCRIBE = "subscription ($after: String) { templateAdded(after: $after) { id name } }"
ADD = "mutation ($name: String!, $locations: [ID!]) { addTemplate(templateInput: {name: $name, shareLocationIds: $locations}) { success } }"


def say(what, value):
    print(f"image: {what:<52} {value}", flush=True)


class Watcher:
    """A user who watches, reconnects after an end, and keeps the results."""

    def __init__(self, user):
        self.user, self.told, self.ends, self.gaps, self.repeats, self.cursor = user, [], [], 0, 0, None
        self.seen, self.is_watching, self.task = set(), False, asyncio.create_task(self.run())

    async def run(self):
        while True:
            try:
                await self.connect()
            except (OSError, websockets.WebSocketException, asyncio.TimeoutError):
                pass
            await asyncio.sleep(0.2)

    async def connect(self):
        address = f"ws://127.0.0.1:{PORT}/graphql"
        async with websockets.connect(address, subprotocols=["graphql-transport-ws"], open_timeout=5, ping_interval=None) as socket:
            await socket.send(json.dumps({"type": "connection_init", "payload": {"token": f"Bearer {self.user}"}}))
            assert json.loads(await asyncio.wait_for(socket.recv(), 5))["type"] == "connection_ack"
            payload = {"query": SUBSCRIBE, "variables": {"after": self.cursor}}
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
            self.is_watching = True
            try:
                async for frame in socket:
                    self.receive(json.loads(frame))
            finally:
                self.ends.append(socket.close_code)

    def receive(self, message):
        assert message["type"] == "next", message
        extensions = message["payload"].get("extensions", {})
        self.cursor = extensions.get("cursor", self.cursor)
        self.gaps += "gap" in extensions
        template = (message["payload"]["data"] or {}).get("templateAdded")
        if template and extensions["eventId"] in self.seen:
            self.repeats += 1
        elif template:
            self.seen.add(extensions["eventId"])
            self.told.append(template["name"])


def add(user, name, locations):
    """Adds a template; returns whether the topic has acknowledged the event."""
    body = json.dumps({"query": ADD, "variables": {"name": name, "locations": locations}}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {user}"}
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/graphql", body, headers)
        with urllib.request.urlopen(request, timeout=15) as response:
            return json.load(response)["data"]["addTemplate"]["success"]
    except (OSError, urllib.error.URLError, KeyError, TypeError):
        return False


async def until(held, patience, what):
    for _ in range(int(patience / 0.1)):
        if held():
            return
        await asyncio.sleep(0.1)
    sys.exit(f"image: ERROR after {patience} s: {what}")


async def acknowledged(user, name, locations):
    for _ in range(120):
        if await asyncio.to_thread(add, user, name, locations):
            return
        await asyncio.sleep(0.5)
    sys.exit("image: ERROR nothing is acknowledged")


async def settled(watchers):
    """Waits until each of the watchers has received an event that is for all of them."""
    for attempt in range(60):
        await acknowledged("ZELO", f"hello {attempt}", [1, 3, 4])
        await acknowledged("ZOWI", f"hello {attempt}", [1, 3, 4])
        await asyncio.sleep(1)
        if all(w.told for w in watchers):
            return
    sys.exit("image: ERROR not everyone is told")


async def drain():
    watcher = Watcher("ZOLO")
    await until(lambda: watcher.ends, 60, "the client was not sent away")
    say("SIGTERM: its client ends with", watcher.ends[0])
    sys.exit(watcher.ends[0] != 1012)


def admin(pod, path):
    """Returns the pod's own answer on its admin port, which only the container's network
    reaches."""
    inspect = ["docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", pod]
    address = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
    with urllib.request.urlopen(f"http://{address}:9090{path}", timeout=5) as response:
        return response.read().decode()


def is_ready(pod):
    try:
        return bool(admin(pod, "/readyz"))
    except OSError:
        return False


def connections(pod):
    return sum(int(line.split()[-1]) for line in admin(pod, "/metrics").splitlines() if line.startswith("relay_connections{"))


async def story():
    await until(lambda: all(map(is_ready, PODS)), 60, "not every pod is ready")
    await asyncio.sleep(5)  # haproxy checks every second, and needs to see the pod ready
    watchers = {}
    for user in ("ZOWI", "ZOLO", "ZEWI", "ZELO"):
        # One by one and before any mutation, whose connections count too: haproxy takes the pod
        # with the fewest.
        watcher = watchers[user] = Watcher(user)
        await until(lambda watcher=watcher: watcher.is_watching, 20, f"{user} is not let in")
    await settled(watchers.values())
    spread = [connections(pod) for pod in PODS]
    say("connections on each pod", ", ".join(map(str, spread)))
    if sum(spread) != 4 or max(spread) != 1:
        sys.exit("image: ERROR the four users are not on four pods")
    await acknowledged("ZOWI", "the tutorial's", [3])
    await until(lambda: all("the tutorial's" in watchers[u].told for u in ("ZOLO", "ZEWI")), 20, "ZOLO or ZEWI was not told")
    await asyncio.sleep(2)
    told = sorted(u for u, w in watchers.items() if "the tutorial's" in w.told)
    say("the story through haproxy: told are", ", ".join(told))
    sys.exit(told != ["ZEWI", "ZOLO"])


async def restarts():
    crowd = [Watcher("ZOLO" if n % 2 else "ZEWI") for n in range(100)]
    await settled(crowd)
    sent, stop = [], asyncio.Event()

    async def load():
        while not stop.is_set():
            name = f"load {len(sent)}"
            if await asyncio.to_thread(add, "ZOWI", name, [3]):
                sent.append(name)
            await asyncio.sleep(0.02)

    loads = [asyncio.create_task(load())]
    for pod in PODS:
        await asyncio.to_thread(subprocess.run, ["docker", "restart", "--time", "35", pod], check=True, capture_output=True)
        await asyncio.sleep(8)
    stop.set()
    await asyncio.gather(*loads)
    await until(lambda: all(set(sent) <= set(w.told) for w in crowd), 60, "something was lost")
    say("restarts of all pods, one at a time: acknowledged", len(sent))
    say("  told to 100 resuming clients", sum(len(set(sent) & set(w.told)) for w in crowd))
    say("  lost", sum(len(set(sent) - set(w.told)) for w in crowd))
    gaps = sum(w.gaps for w in crowd)
    say("  gaps told", gaps)
    ends = [e for w in crowd for e in w.ends]
    say("  ends", ", ".join(f"{code} × {ends.count(code)}" for code in sorted(set(ends), key=str)))
    order = all([n for n in w.told if n.startswith("load")] == sent for w in crowd)
    say("  in the order of their acknowledgement", order)
    if gaps or not order:
        sys.exit("image: ERROR clients that resume were told of gaps, or out of order")


asyncio.run({"drain": drain, "story": story, "restarts": restarts}[MODE]())
