#!/usr/bin/env python3
"""Runs the blocks of docs/PROXIES.md in front of a pod: ci/proxies.py RELAY [DOCUMENT]

Each proxy must pass queries, WebSockets, SSE and multipart with the public name in `Host`, without
delay, through idle time, and with the close code of a drain. Faults are printed; then it exits with 1.
"""
import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import websockets

PUBLIC = "relay.example"
IDLE = int(os.environ.get("IDLE", "35"))
LATER = 0.1
WATCH = "subscription { templateAdded { name } }"
STREAMS = {"SSE": "text/event-stream", "multipart": 'multipart/mixed;subscriptionSpec="1.0"'}
HEADERS = {"Host": PUBLIC, "Origin": f"https://{PUBLIC}", "Authorization": "Bearer ZOLO"}

relay, work = os.path.abspath(sys.argv[1]), tempfile.mkdtemp()
with open(sys.argv[2] if len(sys.argv) > 2 else "docs/PROXIES.md") as document:
    page = document.read()
faults = []


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def block(language, front, pod):
    """Returns the one block of this language, with its two ports replaced."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", page, re.S)
    for documented, actual in (("8080", front), ("3000", pod)):
        assert documented in text, f"the block of {language} has no port {documented}"
        text = text.replace(documented, str(actual))
    return text


def nginx(text):
    return ["nginx", "-p", work, "-c"], f"""
        daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log;
        events {{}} http {{ access_log off; {text} }}"""


def haproxy(text):
    return ["haproxy", "-db", "-f"], text


def apache(text):
    modules = "/usr/lib/apache2/modules"
    names = ("mpm_event", "authz_core", "proxy", "proxy_http")
    load = "\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in names)
    return ["apache2", "-DFOREGROUND", "-f"], f"""
ServerName localhost
ServerRoot {work}
PidFile {work}/apache.pid
ErrorLog {work}/apache.log
{load}
{text}"""


def start(name, make, front, pod):
    command, text = make(block(name, front, pod))
    path = f"{work}/{name}.conf"
    with open(path, "w") as file:
        file.write(text)
    return subprocess.Popen([*command, path], stdout=subprocess.DEVNULL)


def until_open(port):
    limit = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > limit:
                sys.exit(f"nothing listens on {port}: see {work}")
            time.sleep(0.05)


def ask(port, query, user="ZOLO"):
    body = json.dumps({"query": query}).encode()
    headers = {**HEADERS, "Authorization": f"Bearer {user}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


async def add(port, name):
    arguments = f'templateInput: {{ name: "{name}", shareLocationIds: ["3"] }}'
    await asyncio.to_thread(ask, port, f"mutation {{ addTemplate({arguments}) {{ success }} }}", "ZOWI")


async def connect(port):
    """Opens a WebSocket with a subscription."""
    tcp = socket.create_connection(("127.0.0.1", port))
    socket_ = await websockets.connect(
        f"ws://{PUBLIC}/graphql", sock=tcp, origin=f"https://{PUBLIC}", subprotocols=["graphql-transport-ws"],
        proxy=None, ping_interval=None, max_queue=None)
    await socket_.send(json.dumps({"type": "connection_init", "payload": {"token": "ZOLO"}}))
    assert json.loads(await socket_.recv())["type"] == "connection_ack"
    await socket_.send(json.dumps({"type": "subscribe", "id": "1", "payload": {"query": WATCH}}))
    return socket_


async def stream(port, accept):
    """Opens a streaming response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"query": WATCH})
    head = {**HEADERS, "Accept": accept, "Content-Type": "application/json", "Content-Length": len(body)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    writer.write(f"POST /graphql HTTP/1.1\r\n{lines}\r\n{body}".encode())
    status = await reader.readline()
    assert b" 200 " in status, status
    return reader, writer


async def until(read, text):
    while True:
        piece = await asyncio.wait_for(read(), 10)
        if not piece:
            raise EOFError(f"an end instead of {text}")
        if text in (piece if isinstance(piece, str) else piece.decode()):
            return


async def lateness(pod, read, times=10):
    """Returns the median seconds from a mutation to its event."""
    waits = []
    for n in range(times):
        name = f"late-{time.time_ns()}-{n}"
        begun = time.monotonic()
        seen = asyncio.ensure_future(until(read, name))
        await add(pod, name)
        await seen
        waits.append(time.monotonic() - begun)
    return statistics.median(waits)


async def try_proxy(name, front, pod, direct):
    """Tries one proxy. Returns the WebSocket that stays for the drain."""
    assert len(ask(front, "{ locations { id } }")["data"]["locations"]) == 4
    web = await connect(front)
    await asyncio.sleep(0.5)
    readers = {"WebSocket": web.recv}
    held = []
    for transport, accept in STREAMS.items():
        reader, writer = await stream(front, accept)
        held.append(writer)
        readers[transport] = lambda reader=reader: reader.read(65536)
    await asyncio.sleep(0.5)
    for transport, read in readers.items():
        # Each reads what the others caused as well, and looks for its own.
        late = await lateness(pod, read)
        print(f"{name}: {transport}: {late * 1000:.0f} ms, without it {direct[transport] * 1000:.0f} ms")
        if late - direct[transport] > LATER:
            faults.append(f"{name}: {transport} is {(late - direct[transport]) * 1000:.0f} ms late")
    await asyncio.sleep(IDLE)
    await add(pod, f"after-{name}")
    for transport, read in readers.items():
        await until(read, f"after-{name}")
    print(f"{name}: alive after {IDLE} s")
    return web


async def directly(pod):
    web = await connect(pod)
    await asyncio.sleep(0.5)
    direct = {"WebSocket": await lateness(pod, web.recv)}
    for transport, accept in STREAMS.items():
        reader, _ = await stream(pod, accept)
        await asyncio.sleep(0.5)
        direct[transport] = await lateness(pod, lambda reader=reader: reader.read(65536))
    return direct


async def main():
    pod = free_port()
    env = {"RELAY_LISTEN": f"127.0.0.1:{pod}", "RELAY_DRAIN_DELAY": "0s", "RELAY_DRAIN_SPREAD": "0s", "RELAY_LOG": "warn"}
    running = [subprocess.Popen([relay], env=env)]
    try:
        until_open(pod)
        direct = await directly(pod)
        fronts = {}
        for name, make in (("nginx", nginx), ("haproxy", haproxy), ("apache", apache)):
            fronts[name] = free_port()
            running.append(start(name, make, fronts[name], pod))
            until_open(fronts[name])
        await asyncio.sleep(2)  # until haproxy has checked the pod
        tries = (try_proxy(name, front, pod, direct) for name, front in fronts.items())
        held = await asyncio.gather(*tries, return_exceptions=True)
        running[0].send_signal(signal.SIGTERM)
        for name, web in zip(fronts, held):
            if isinstance(web, BaseException):
                faults.append(f"{name}: {type(web).__name__}: {web}")
                continue
            await asyncio.wait_for(web.wait_closed(), 10)
            print(f"{name}: a drain arrives as {web.close_code}")
            if web.close_code != 1012:
                faults.append(f"{name}: a drain arrives as {web.close_code}")
    finally:
        for process in running[1:]:
            process.terminate()
        running[0].kill()
        for process in running:
            process.wait()


asyncio.run(main())
for fault in faults:
    print("FAULT", fault)
print("proxies: each block does what the page says" if not faults else f"proxies: {len(faults)} faults")
sys.exit(bool(faults))
