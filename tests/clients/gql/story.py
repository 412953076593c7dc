"""gql for Python against a running pod: each transport with its defaults, and both dialects.

`cargo test --test clients` runs it with RELAY_BINARY.
"""

import asyncio
import os
import socket
import subprocess
import time
import unittest
import urllib.request

from gql import Client, gql
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.aiohttp_websockets import AIOHTTPWebsocketsTransport
from gql.transport.exceptions import TransportError
from gql.transport.httpx import HTTPXAsyncTransport, HTTPXTransport
from gql.transport.requests import RequestsHTTPTransport
from gql.transport.websockets import WebsocketsTransport

PATIENCE = 30
LOCATIONS = gql("{ locations { id } }")
WRONG = gql("{ nothing }")
WATCH = gql("subscription { templateAdded { name } }")
ADD = """mutation ($name: String!) {
  addTemplate(templateInput: { name: $name, shareLocationIds: ["3"] }) { success }
}"""

BY_HEADER = {"Authorization": "Bearer ZOLO"}
BY_PAYLOAD = {"token": "Bearer ZOLO"}

HTTP = {
    "aiohttp": AIOHTTPTransport,
    "httpx": HTTPXAsyncTransport,
    "httpx, blocking": HTTPXTransport,
    "requests": RequestsHTTPTransport,
}

SOCKETS = {
    "websockets": (WebsocketsTransport, {}),
    "websockets, newer dialect": (WebsocketsTransport, {"subprotocols": ["graphql-transport-ws"]}),
    "websockets, older dialect": (WebsocketsTransport, {"subprotocols": ["graphql-ws"]}),
    "websockets, own pings": (WebsocketsTransport, {"subprotocols": ["graphql-transport-ws"], "ping_interval": 0.2}),
    "aiohttp": (AIOHTTPWebsocketsTransport, {}),
    "aiohttp, newer dialect": (AIOHTTPWebsocketsTransport, {"subprotocols": ["graphql-transport-ws"]}),
    "aiohttp, older dialect": (AIOHTTPWebsocketsTransport, {"subprotocols": ["graphql-ws"]}),
}


class Story(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            cls.address = f"127.0.0.1:{free.getsockname()[1]}"
        cls.pod = subprocess.Popen([os.environ["RELAY_BINARY"]], env={"RELAY_LISTEN": cls.address})
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"http://{cls.address}/readyz").close()
                return
            except OSError:
                assert time.monotonic() < limit, "the pod is not ready"
                time.sleep(0.05)

    @classmethod
    def tearDownClass(cls):
        cls.pod.kill()
        cls.pod.wait()

    def http(self, transport, **more):
        return transport(url=f"http://{self.address}/graphql", headers=BY_HEADER, **more)

    def socket(self, name, init=BY_PAYLOAD):
        transport, more = SOCKETS[name]
        return transport(url=f"ws://{self.address}/graphql", init_payload=init, **more)

    async def add(self, name):
        transport = AIOHTTPTransport(url=f"http://{self.address}/graphql", headers={"Authorization": "Bearer ZOWI"})
        request = gql(ADD)
        request.variable_values = {"name": name}
        async with Client(transport=transport) as session:
            await session.execute(request)

    def test_http(self):
        asyncio.run(self.http_story())

    async def http_story(self):
        for name, transport in HTTP.items():
            with self.subTest(name):
                client = Client(transport=self.http(transport), fetch_schema_from_transport=True)
                # Clients that block have a loop of their own.
                run = lambda document, client=client: asyncio.to_thread(client.execute, document)
                self.assertEqual(len((await run(LOCATIONS))["locations"]), 4)
                with self.assertRaisesRegex(Exception, "nothing"):
                    await run(WRONG)

    def test_subscription(self):
        asyncio.run(self.subscription_story())

    async def subscription_story(self):
        for name in SOCKETS:
            with self.subTest(name):
                async with Client(transport=self.socket(name)) as session:
                    self.assertEqual(len((await session.execute(LOCATIONS))["locations"]), 4)
                    events = session.subscribe(WATCH)
                    first = asyncio.ensure_future(anext(events))
                    await self.until_watched()
                    await self.add(f"for {name}")
                    event = await asyncio.wait_for(first, PATIENCE)
                    self.assertEqual(event["templateAdded"]["name"], f"for {name}")
                    with self.assertRaisesRegex(Exception, "nothing"):
                        await session.execute(WRONG)
                    await events.aclose()

    def test_refused_token(self):
        asyncio.run(self.refused_token_story())

    async def refused_token_story(self):
        for name in SOCKETS:
            with self.subTest(name), self.assertRaises(TransportError):
                async with Client(transport=self.socket(name, {"token": "NO_USER"})) as session:
                    await session.execute(LOCATIONS)

    async def until_watched(self):
        limit = time.monotonic() + PATIENCE
        while True:
            text = urllib.request.urlopen(f"http://{self.address}/metrics").read().decode()
            if any(line.startswith("relay_watchers") and line.endswith(" 1") for line in text.splitlines()):
                return
            self.assertLess(time.monotonic(), limit, "there is no watcher")
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    unittest.main()
