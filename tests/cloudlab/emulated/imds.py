"""The metadata service (IMDSv2) at 169.254.169.254: who a host is, its role's keys, spot notices.

A host is known by its address. As on EC2 with `HttpTokens: required`, a request without a token is
refused, and an instance without a profile has no role.
"""

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from emulated.hosts import Instance

ADDRESS = "169.254.169.254"
ACCOUNT = "123456789012"
"""The account that moto answers for."""

ROLE_KEY = "ASIALABROLE"
"""The id of the key that every host's role gives it."""

TOKEN = "lab-token"
_LIFETIME = timedelta(hours=6)


def metadata(instance: Instance, notice: str | None, now: datetime) -> dict[str, str]:
    """Everything the service tells an instance, by path below `/latest/`.

    Args:
        notice: the interruption notice that stands, as JSON.
    """
    told = {
        "meta-data/instance-id": instance.id,
        "meta-data/instance-type": instance.type,
        "meta-data/instance-life-cycle": instance.lifecycle,
        "meta-data/local-ipv4": instance.address,
        "meta-data/local-hostname": instance.name,
        "meta-data/hostname": instance.name,
        "meta-data/placement/availability-zone": instance.zone,
        "meta-data/placement/region": instance.region,
        "dynamic/instance-identity/document": json.dumps(
            {
                "accountId": ACCOUNT,
                "instanceId": instance.id,
                "instanceType": instance.type,
                "region": instance.region,
                "availabilityZone": instance.zone,
                "privateIp": instance.address,
            }
        ),
    }
    if instance.role:
        told["meta-data/iam/security-credentials"] = instance.role
        told[f"meta-data/iam/security-credentials/{instance.role}"] = _role_keys(now)
    if notice:
        told["meta-data/spot/instance-action"] = notice
        told["meta-data/spot/termination-time"] = json.loads(notice)["time"]
    return told


def notice_in(seconds: float, now: datetime) -> str:
    """A spot interruption notice: terminated in so many seconds (EC2 gives 120)."""
    at = now + timedelta(seconds=seconds)
    return json.dumps({"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")})


def _role_keys(now: datetime) -> str:
    return json.dumps(
        {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": ROLE_KEY,
            "SecretAccessKey": "lab",
            "Token": "lab",
            "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Expiration": (now + _LIFETIME).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )


def serve(
    instance_at: Callable[[str], Instance | None], notices: Mapping[str, str]
) -> ThreadingHTTPServer:
    """Start answering, in threads of its own.

    Args:
        instance_at: the instance with a private address.
        notices: instance to the notice that stands.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            if self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in (
                self.headers
            ):
                self._answer(200, TOKEN)
            else:
                self._answer(400)

        def do_GET(self) -> None:
            if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
                return self._answer(401)
            instance = instance_at(self.client_address[0])
            if instance is None:
                return self._answer(404)
            told = metadata(instance, notices.get(instance.id), datetime.now(UTC))
            path = self.path.removeprefix("/latest/").rstrip("/")
            return self._answer(200, told[path]) if path in told else self._answer(404)

        def _answer(self, status: int, text: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(text.encode())))
            if text == TOKEN:
                self.send_header("X-aws-ec2-metadata-token-ttl-seconds", "21600")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Hosts ask every few seconds; nobody reads that."""

    server = ThreadingHTTPServer((ADDRESS, 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
