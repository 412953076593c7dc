"""Prints a token for the pods of compose/*.env: python3 compose/token.py USER

It is signed with the secret of these files, which is for a laptop alone.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import sys
import time


def part(value):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=")


lines = (pathlib.Path(__file__).parent / "postgres.env").read_text().splitlines()
secret = next(line for line in lines if line.startswith("RELAY_JWT_SECRET=")).partition("=")[2]
claims = {"sub": sys.argv[1], "exp": int(time.time()) + 24 * 3600}
signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims)
print((signed + b"." + part(hmac.new(secret.encode(), signed, hashlib.sha256).digest())).decode())
