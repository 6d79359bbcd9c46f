"""The lab's one process: moto behind the gateway, the metadata service, the hypervisor.

It is pid 1 of a process namespace and sits in a network namespace without a way out. When it ends,
the kernel ends every host and every command that was started in the lab, and the network with them.

It answers in two places: at `ENDPOINT` for what runs in the lab, and on a socket of the machine's
own loopback that it was handed when it started, for tests.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from emulated import account, imds
from emulated.faults import Call, FaultBook
from emulated.folder import ENDPOINT, GATEWAY, LabFolder
from emulated.gateway import Gateway
from emulated.hosts import Host, Plant, lay_bridge
from emulated.hypervisor import Hypervisor
from emulated.permits import Policies

PORT = int(ENDPOINT.rpartition(":")[2])


def main() -> None:
    """Serve until killed."""
    wanted = _arguments()
    folder = LabFolder(Path(wanted.lab))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    images = folder.run / "images.json"
    account.write_images(images)
    os.environ["MOTO_AMIS_PATH"] = str(images)  # moto reads it when it is imported

    lay_bridge()
    shared = Path(wanted.shared) if wanted.shared else None
    plant = Plant(folder.hosts, Path(wanted.image), shared, folder.logs)
    _serve(plant, socket.socket(fileno=wanted.socket))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lab", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--shared", default="")
    parser.add_argument("--socket", type=int, required=True)
    return parser.parse_args()


def _serve(plant: Plant, outside: socket.socket) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    book, notices = FaultBook(), dict[str, str]()
    clouds = {region: _client("ec2", region) for region in account.NETWORKS}
    hypervisor = Hypervisor(clouds, plant)
    levers = Levers(hypervisor, notices)
    gateway = Gateway(
        DomainDispatcherApplication(create_backend_app),
        book,
        Policies(_tags),
        changed=levers.after,
        hosts=levers.hosts,
        pull=levers.pull,
    )
    inside = socket.create_server((GATEWAY, PORT), backlog=128)
    for listening in (inside, outside):
        _listen(gateway, listening)
    account.furnish(clouds, _client("iam", "us-east-1"))
    imds.serve(lambda address: _instance(hypervisor.at_address(address)), notices)
    gateway.ready = True
    hypervisor.run()


def _instance(host: Host | None) -> Any:
    return host.instance if host else None


def _tags(region: str, name: str) -> dict[str, str]:
    asked = [{"Name": "resource-id", "Values": [name]}]
    tags = _client("ec2", region).describe_tags(Filters=asked)["Tags"]
    return {tag["Key"]: tag["Value"] for tag in tags}


def _listen(gateway: Gateway, listening: socket.socket) -> None:
    from moto.moto_server.werkzeug_app import MotoRequestHandler
    from werkzeug.serving import make_server

    host, port = listening.getsockname()
    server = make_server(
        host,
        port,
        gateway,
        threaded=True,
        request_handler=MotoRequestHandler,
        fd=listening.detach(),
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()


@cache
def _client(service: str, region: str) -> Any:
    import boto3

    return boto3.client(
        service,
        region_name=region,
        endpoint_url=ENDPOINT,
        aws_access_key_id="provider",
        aws_secret_access_key="provider",
    )


class Levers:
    """What a test can do to hosts."""

    def __init__(self, hypervisor: Hypervisor, notices: dict[str, str]) -> None:
        self._hypervisor = hypervisor
        self._notices = notices

    def after(self, call: Call) -> None:
        """A request changed something: look at EC2 again. A reboot shows in no state of EC2."""
        if call.action == "RebootInstances":
            for instance in call.instances:
                self._hypervisor.restart(instance)
        self._hypervisor.wake()

    def hosts(self) -> list[dict[str, object]]:
        return [asdict(host.instance) | {"pid": host.init} for host in self._hypervisor.hosts()]

    def pull(self, instance: str, what: str, query: dict[str, str]) -> None:
        if what == "notice":
            seconds = float(query.get("seconds", 120))
            self._notices[instance] = imds.notice_in(seconds, datetime.now(UTC))
        elif what == "reclaim":
            _reclaim(instance)
            self._hypervisor.wake()
        else:
            deed = {"cut": Host.cut, "mend": Host.mend, "crash": Host.kill}[what]
            self._hypervisor.on_host(instance, deed)


def _reclaim(instance_id: str) -> None:
    """Take a spot instance away as EC2 does: terminated, and the reason is not the user's.

    moto knows no such event, hence its own models: the state is as after TerminateInstances, the
    reason that of a spot termination.
    """
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.instances import StateReason

    for region in account.NETWORKS:
        backend = ec2_backends[imds.ACCOUNT][region]
        if instance_id in {found.id for found in backend.all_instances()}:
            backend.terminate_instances([instance_id])
            instance = backend.get_instance(instance_id)
            code = "Server.SpotInstanceTermination"
            instance.state_reason = StateReason(f"{code}: Spot instance termination", code)
            return
    raise KeyError(instance_id)


if __name__ == "__main__":
    main()
