"""The package against real pods: whatever ends a connection, every event comes once.

`cargo test --test clients` runs it with RELAY_BINARY and PUBSUB_EMULATOR_HOST.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

from gql import Client, gql  # noqa: E402
from gql.transport.exceptions import TransportConnectionFailed, TransportQueryError  # noqa: E402
from pubsub_relay_client import MemoryStore, RelayError, RelayTransport, Writes, watch  # noqa: E402

PATIENCE = 30
QUERY = "subscription { templateAdded { name } }"
SCHEMES = ("ws", "http")
SECRET = "a secret of thirty-two bytes for tests"


def signed(user, seconds):
    """Returns a token of the user that expires in this time."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": user, "exp": int(time.time()) + seconds})
    encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
    text = b".".join(encode(json.dumps(part).encode()) for part in parts)
    return (text + b"." + encode(hmac.digest(SECRET.encode(), text, hashlib.sha256))).decode()


async def eventually(what, ask):
    """Calls `ask` every 20 ms until it returns a true value."""
    for _ in range(PATIENCE * 50):
        if ask():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not in time: {what}")


class Pod:
    """A real pod."""

    def __init__(self, **settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        env = {"RELAY_LISTEN": f"127.0.0.1:{self.port}", **settings}
        self.process = subprocess.Popen([os.environ["RELAY_BINARY"]], env=env, stderr=subprocess.DEVNULL)

    def get(self, path):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as response:
            return response.read().decode()
        return None

    def has_watchers(self, count):
        text = self.get("/metrics") or ""
        return sum(int(number) for number in re.findall(r"^relay_watchers\S* (\d+)", text, re.M)) == count

    def ask(self, query, user="ZOWI"):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {user}"}
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/graphql", body, headers)
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def add(self, name, user="ZOWI"):
        assert self.ask(mutation(name), user)["data"]["addTemplate"]["success"]

    def stop(self):
        self.process.kill()
        self.process.wait()

    def drain(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Balancer:
    """One address in front of the current pod. It can cut connections, or swallow everything."""

    def __init__(self, pod):
        self.pod = pod
        self.lines = []

    async def start(self):
        self.server = await asyncio.start_server(self.lead, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def lead(self, reader, writer):
        if not self.pod:
            return writer.transport.abort()
        try:
            back = await asyncio.open_connection("127.0.0.1", self.pod.port)
        except OSError:
            return writer.transport.abort()
        line = {"writers": (writer, back[1]), "is_dead": False}
        self.lines.append(line)
        await asyncio.gather(self.pipe(line, reader, back[1]), self.pipe(line, back[0], writer))

    async def pipe(self, line, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not line["is_dead"]:
                    writer.write(data)
        if not line["is_dead"]:
            writer.transport.abort()

    def cut(self):
        for line in self.lines:
            for writer in line["writers"]:
                writer.transport.abort()
        self.lines.clear()

    def stop(self):
        self.cut()
        self.server.close()

    def swallow(self):
        for line in self.lines:
            line["is_dead"] = True


class Watcher:
    """One running subscription, and what it receives."""

    def __init__(self, scheme, port, **options):
        self.names = []
        options = {"token": lambda: "ZOLO", "retry_wait": lambda _: 0.1, **options}
        self.results = watch(f"{scheme}://127.0.0.1:{port}/graphql", QUERY, **options)
        self.task = asyncio.create_task(self.run())

    async def run(self):
        async for result in self.results:
            self.names.append(result.data["templateAdded"]["name"])

    async def stop(self):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, RelayError):
            await self.task
        await self.results.aclose()


class Package(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        # The debug mode of unittest prints each slow step.
        asyncio.get_running_loop().set_debug(False)

    async def pods(self, count=2, **settings):
        if settings.get("RELAY_BROKER") != "memory:":
            settings["PUBSUB_EMULATOR_HOST"] = os.environ["PUBSUB_EMULATOR_HOST"]
            settings["RELAY_BROKER"] = f"pubsub://python-{str(uuid.uuid4())[:13]}/events"
        pods = [Pod(**settings, RELAY_POD=f"pod-{n}", RELAY_DRAIN_DELAY="0s", RELAY_DRAIN_SPREAD="500ms") for n in range(count)]
        for pod in pods:
            self.addCleanup(pod.stop)
            await eventually("the pod is ready", lambda: pod.get("/readyz"))
        balancer = Balancer(pods[0])
        await balancer.start()
        self.addCleanup(balancer.stop)
        return pods, balancer

    def watch(self, scheme, balancer, **options):
        watcher = Watcher(scheme, balancer.port, **options)
        self.addAsyncCleanup(watcher.stop)
        return watcher

    async def failed(self, scheme, port, **options):
        """Returns the error that ends a subscription."""
        watcher = Watcher(scheme, port, **options)
        self.addAsyncCleanup(watcher.stop)
        with self.assertRaises(RelayError) as failure:
            await asyncio.wait_for(watcher.task, PATIENCE)
        return failure.exception

    async def test_goes_on_on_another_pod(self):
        for end in ("cut", "drain", "crash"):
            pods, balancer = await self.pods()
            watchers = {scheme: self.watch(scheme, balancer) for scheme in SCHEMES}
            await eventually("both watch", lambda: pods[0].has_watchers(2))
            balancer.pod = None
            {"cut": balancer.cut, "drain": pods[0].drain, "crash": pods[0].stop}[end]()
            if end == "cut":
                await eventually("none watches", lambda: pods[0].has_watchers(0))
            pods[1].add("away")
            balancer.pod = pods[1]
            await eventually("both are back", lambda: pods[1].has_watchers(2))
            pods[1].add("live")
            for scheme, watcher in watchers.items():
                with self.subTest(end, scheme=scheme):
                    await eventually(f"live: {watcher.names}", lambda: "live" in watcher.names)
                    self.assertEqual(watcher.names, ["away", "live"])

    async def test_goes_on_after_a_network_that_swallows_everything(self):
        pods, balancer = await self.pods(1)
        watchers = [self.watch(scheme, balancer, patience=3) for scheme in SCHEMES]
        await eventually("both watch", lambda: pods[0].has_watchers(2))
        for names in (["first"], ["first", "second"]):
            balancer.swallow()
            pods[0].add(names[-1])
            for watcher in watchers:
                await eventually(f"{names}: {watcher.names}", lambda: names[-1] in watcher.names)
                self.assertEqual(watcher.names, names)

    async def test_gets_a_fresh_token_when_the_old_one_has_expired(self):
        (pod,), balancer = await self.pods(1, RELAY_AUTH="jwt", RELAY_JWT_SECRET=SECRET)
        for scheme in SCHEMES:
            # The pod grants an expired token a few seconds for clocks that differ.
            lifetimes = iter([-3])
            asked = []
            token = lambda: asked.append(1) or signed("4", next(lifetimes, 600))
            watcher = self.watch(scheme, balancer, token=token)
            await eventually("it asks for another token", lambda: len(asked) == 2 or watcher.task.done())
            await eventually("it is back", lambda: pod.has_watchers(1) or watcher.task.done())
            pod.add(scheme, signed("3", 600))
            await eventually("it goes on", lambda: scheme in watcher.names or watcher.task.done())
            await watcher.stop()
            await eventually("none watches", lambda: pod.has_watchers(0))
            self.assertEqual((watcher.names.count(scheme), len(asked)), (1, 2))

    async def test_goes_on_from_a_stored_cursor(self):
        pods, balancer = await self.pods(1)
        for scheme in SCHEMES:
            store = MemoryStore()
            first = self.watch(scheme, balancer, store=store)
            await eventually("it watches", lambda: pods[0].has_watchers(1))
            pods[0].add(f"{scheme} seen")
            await eventually("it has it", lambda: first.names)
            await first.stop()
            await eventually("none watches", lambda: pods[0].has_watchers(0))
            pods[0].add(f"{scheme} missed")
            second = self.watch(scheme, balancer, store=store)
            await eventually("it has what it missed", lambda: f"{scheme} missed" in second.names)
            await second.stop()
            await eventually("none watches", lambda: pods[0].has_watchers(0))

    async def test_reports_a_gap(self):
        (pod,), balancer = await self.pods(1, RELAY_BROKER="memory:")
        gaps = []
        watchers = [self.watch(scheme, balancer, on_gap=gaps.append) for scheme in SCHEMES]
        await eventually("both watch", lambda: pod.has_watchers(2))
        pod.add("before")
        await eventually("both have it", lambda: all(watcher.names for watcher in watchers))
        pod.stop()
        (balancer.pod,), _ = await self.pods(1, RELAY_BROKER="memory:")
        await eventually("both have a gap", lambda: len(gaps) == 2)
        self.assertTrue(all(gap["reason"] for gap in gaps))
        balancer.pod.add("after")
        for watcher in watchers:
            await eventually("it goes on", lambda: watcher.names == ["before", "after"])

    async def test_ends_with_a_typed_error(self):
        _, balancer = await self.pods(1)
        (foreign,), _ = await self.pods(1)
        cursor = foreign.ask("{ __typename }")["extensions"]["cursor"]
        for scheme in SCHEMES:
            with self.subTest(scheme):
                asked = []
                refused = await self.failed(scheme, balancer.port, token=lambda: asked.append(1) or "NO_USER")
                self.assertEqual((refused.code, len(asked)), ("UNAUTHENTICATED", 1))

                def failing():
                    raise ValueError("signed out")

                thrown = await self.failed(scheme, balancer.port, token=failing)
                self.assertEqual(thrown.code, "TOKEN_FAILED")
                self.assertIn("signed out", str(thrown))

                store = MemoryStore()
                store.load = lambda key: None if key in removed else cursor
                removed = []
                store.remove = removed.append
                old = await self.failed(scheme, balancer.port, store=store)
                self.assertEqual((old.code, len(removed)), ("BAD_CURSOR", 1))
        self.assertEqual((await self.failed("http", await plain_server(self))).code, "NOT_A_RELAY")

    async def test_goes_on_when_its_store_fails(self):
        pods, balancer = await self.pods(1)

        class Full(MemoryStore):
            def save(self, key, cursor):
                raise OSError("no space left on device")

        for scheme in SCHEMES:
            warnings = []
            watcher = self.watch(scheme, balancer, store=Full(), on_warning=warnings.append)
            await eventually("it watches", lambda: pods[0].has_watchers(1))
            pods[0].add("one")
            pods[0].add("two")
            await eventually("it has both", lambda: watcher.names == ["one", "two"])
            await watcher.stop()
            await eventually("none watches", lambda: pods[0].has_watchers(0))
            self.assertEqual([warning.code for warning in warnings], ["STORAGE_FAILED"])

    def session(self, pod, **options):
        options = {"token": lambda: "ZOLO", **options}
        return Client(transport=RelayTransport(f"ws://127.0.0.1:{pod.port}/graphql", **options))

    async def test_each_request_reads_what_earlier_ones_have_written(self):
        pods, _ = await self.pods()
        writes = Writes()
        async with self.session(pods[0], writes=writes) as first, self.session(pods[1], writes=writes) as second:
            names = gql("{ templates { name } }")
            for n in range(100):
                name = f"written {n}"
                await first.execute(gql(mutation(name)))
                answer = await second.execute(names)
                self.assertIn(name, [template["name"] for template in answer["templates"]])
        tokens = writes.extend(None)["readAfter"]
        self.assertEqual((len(tokens), len(set(tokens))), (8, 8))
        count = re.search(r"^relay_read_after_requests_total\S* (\d+)", pods[1].get("/metrics"), re.M)
        self.assertTrue(count, "the second pod was asked to wait")

    async def test_keeps_the_latest_eight_writes(self):
        writes = Writes()
        self.assertIsNone(writes.extend(None))
        for n in [*range(10), 5]:
            writes.note({"written": str(n), "cursor": "c"})
        writes.note({"cursor": "c"})
        writes.note(None)
        self.assertEqual(writes.extend({"own": 1}), {"readAfter": list("23467895"), "own": 1})
        self.assertEqual(writes.extend({"readAfter": "own"}), {"readAfter": "own"})

    async def test_requests_end_with_typed_errors(self):
        (pod,), _ = await self.pods(1)
        (foreign,), _ = await self.pods(1)
        writes = Writes()
        async with self.session(foreign, writes=writes) as session:
            await session.execute(gql(mutation("elsewhere")))
        async with self.session(pod, writes=writes) as session:
            query = gql("{ templates { name } }")
            with self.assertRaises(RelayError) as refused:
                await session.execute(query)
            self.assertEqual(refused.exception.code, "BAD_READ_AFTER")
            self.assertEqual(await session.execute(query), {"templates": []}, "the tokens were forgotten")
            with self.assertRaises(TransportQueryError) as failed:
                await session.execute(gql('mutation { editTemplate(templateInput: { id: "x" }) { success } }'))
            self.assertEqual(failed.exception.errors[0]["extensions"]["code"], "NOT_FOUND")
            with self.assertRaises(RelayError) as refused:
                await session.execute(gql("{ nothing }"))
            self.assertEqual(refused.exception.code, "GRAPHQL_VALIDATION_FAILED")
            with self.assertRaises(RelayError) as refused:
                async for _ in session.subscribe(gql(QUERY)):
                    pass
            self.assertIn("watch", str(refused.exception))

        def failing():
            raise ValueError("signed out")

        for token, code in ((lambda: "NO_USER", "UNAUTHENTICATED"), (failing, "TOKEN_FAILED")):
            async with self.session(pod, token=token) as session:
                with self.assertRaises(RelayError) as refused:
                    await session.execute(query)
                self.assertEqual(refused.exception.code, code)
        pod.stop()
        async with self.session(pod) as session:
            with self.assertRaises(TransportConnectionFailed):
                await session.execute(query)

    async def test_write_that_has_not_come_is_a_typed_error(self):
        body = {"errors": [{"message": "not yet", "extensions": {"code": "NOT_CAUGHT_UP"}}]}
        port = await plain_server(self, json.dumps(body).encode(), "503 Service Unavailable")
        async with Client(transport=RelayTransport(f"http://127.0.0.1:{port}/graphql")) as session:
            with self.assertRaises(RelayError) as refused:
                await session.execute(gql("{ __typename }"))
        self.assertEqual(refused.exception.code, "NOT_CAUGHT_UP")

    async def test_built_package_runs_the_example_of_its_readme(self):
        (pod,), balancer = await self.pods(1)
        example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            quiet = {"check": True, "stdout": subprocess.DEVNULL}
            subprocess.run([sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT], **quiet)
            subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
            python = folder / "venv/bin/python"
            (wheel,) = (folder / "dist").glob("*.whl")
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
            (folder / "app.py").write_text(example)
            env = {"RELAY_URL": f"ws://127.0.0.1:{balancer.port}/graphql", "PYTHONUNBUFFERED": "1"}
            app = await asyncio.create_subprocess_exec(python, folder / "app.py", env=env, stdout=subprocess.PIPE)
            try:
                await eventually("the example watches", lambda: pod.has_watchers(1))
                pod.add("by the example")
                line = await asyncio.wait_for(app.stdout.readline(), PATIENCE)
            finally:
                app.kill()
                await app.wait()
        self.assertEqual(line.decode().strip(), "by the example")

    async def test_example_of_requests_in_the_readme_runs(self):
        (pod,), _ = await self.pods(1)
        example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
        env = {"RELAY_URL": f"http://127.0.0.1:{pod.port}/graphql", "PYTHONPATH": str(ROOT / "src")}
        options = {"env": env, "capture_output": True, "text": True, "timeout": PATIENCE}
        done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", example], **options)
        self.assertEqual((done.returncode, done.stdout), (0, "Invoice\n"), done.stderr)


def mutation(name):
    share = f'addTemplate(templateInput: {{ name: "{name}", shareLocationIds: ["3"] }})'
    return f"mutation {{ {share} {{ success }} }}"


async def plain_server(test, body=b'{"data":{"__typename":"Query"}}', status="200 OK"):
    """Starts a server of GraphQL that knows no cursors. Returns its port."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    test.addCleanup(server.close)
    return server.sockets[0].getsockname()[1]


if __name__ == "__main__":
    unittest.main()
