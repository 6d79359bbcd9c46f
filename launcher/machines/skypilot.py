"""SkyPilot: the only module that imports it.

It provisions, fails over within a launch, sets up and runs the job. Its own idea of money, time and
what is still there is not used: a cluster that the cloud took stays UP in its books until somebody
asks, and a launch that failed half way may have left machines. `machines/aws.py` asks the cloud.
"""

import io
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from launcher.errors import NoCapacityError, ProvisionError
from recipes.privacy import redacted

JobState = Literal["waiting", "running", "succeeded", "failed", "unknown"]

_IN_FLUX: dict[str, JobState] = {
    "INIT": "waiting",
    "PENDING": "waiting",
    "SETTING_UP": "waiting",
    "RUNNING": "running",
}

WITH_ROLES = frozenset({"aws", "azure", "gcp", "kubernetes"})
"""Clouds whose machines SkyPilot gives a role, with which its autostop ends them."""

OUTPUT_LINES = 200
OUTPUT_S = 20.0
"""How long the output of a job that has failed is worth waiting for [s]."""

ANSWER_S = 120.0
"""How long SkyPilot may take to say how a cluster is [s]."""

DOWN_S = 900.0
"""How long it may take to tear one down [s]."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class SkyPilot:
    """A cluster's life, by name. Every call may start SkyPilot's API server on this machine."""

    def launch(self, task_yaml: str, cluster: str, log: Path, patience_s: float) -> None:
        """Provision a cluster and start its job; returns when the job is submitted.

        Args:
            task_yaml: the task, as SkyPilot reads it.
            cluster: its name.
            log: what SkyPilot says is appended to this file.
            patience_s: how long it may take; then the request is cancelled [s].

        Raises:
            NoCapacityError: the cloud has no such machine now.
            ProvisionError: anything else that kept the job from being submitted. Machines may be
                left either way: call `down`, and ask the cloud.
        """
        import sky

        with _as_our_errors(cluster), redacted_into(log) as stream:
            task = sky.Task.from_yaml_str(task_yaml)
            clouds = {str(wish.cloud).lower() for wish in task.resources}
            with credentials_kept_here(clouds):
                request = sky.launch(task, cluster_name=cluster)
            try:
                _within(patience_s, lambda: sky.stream_and_get(request, output_stream=stream))
            except TimeoutError:
                sky.api_cancel(request)
                raise ProvisionError(
                    f"SkyPilot has not launched {cluster} in {patience_s:.0f} s"
                ) from None

    def job_state(self, cluster: str) -> JobState:
        """Where the cluster's last job is; `unknown` where SkyPilot cannot say."""
        import sky

        try:
            states = sky.get(sky.job_status(cluster))
        except Exception:  # noqa: BLE001 - a look that failed says nothing about the job
            return "unknown"
        state = next(iter(states.values()), None)
        if state is None:
            return "unknown"
        if state.value in _IN_FLUX:
            return _IN_FLUX[state.value]
        return "succeeded" if state.value == "SUCCEEDED" else "failed"

    def output(self, cluster: str, into: Path) -> None:
        """Append the last lines of the cluster's last job to a file, if they can be had soon."""
        import sky

        def fetch() -> None:
            with redacted_into(into) as stream:
                sky.tail_logs(cluster, None, follow=False, tail=OUTPUT_LINES, output_stream=stream)

        try:
            _within(OUTPUT_S, fetch)
        except Exception as error:  # noqa: BLE001 - it would have been good to have, no more
            with redacted_into(into) as stream:
                stream.write(f"the output of {cluster} could not be fetched: {error!r}\n")

    def is_up(self, cluster: str) -> bool | None:
        """Whether the cloud still has anything of the cluster; `None` where it cannot be asked.

        One that starts, has stopped or is half gone is still there: it may cost.
        """
        import sky

        records: list[Any] = []

        def ask() -> None:
            request = sky.status(cluster_names=[cluster], refresh=sky.StatusRefreshMode.FORCE)
            records.extend(sky.get(request))

        try:
            _within(ANSWER_S, ask)
        except Exception:  # noqa: BLE001 - a look that failed says nothing about the cluster
            return None
        return bool(records)

    def down(self, cluster: str, log: Path) -> None:
        """Tear a cluster down, and end launches of it that are under way; nothing happens where
        there is neither.

        Raises:
            ProvisionError: SkyPilot could not do it; the cloud has to be asked directly.
        """
        import sky

        with redacted_into(log) as stream, _as_our_errors(cluster):

            def down() -> None:
                _cancel_launches(cluster)
                with suppress(sky.exceptions.ClusterDoesNotExist):
                    sky.stream_and_get(sky.down(cluster), output_stream=stream)

            try:
                _within(DOWN_S, down)
            except TimeoutError:
                raise ProvisionError(
                    f"SkyPilot has not torn {cluster} down in {DOWN_S:.0f} s"
                ) from None


def _cancel_launches(cluster: str) -> None:
    """End what was asked for and does not stand among SkyPilot's clusters yet: whoever asked may
    have been killed, and its server would go on."""
    import sky

    launches = [
        request.request_id
        for request in sky.api_status(cluster_name=cluster)
        if request.name == "sky.launch"
    ]
    if launches:
        sky.get(sky.api_cancel(launches, silent=True))


@contextmanager
def credentials_kept_here(clouds: Collection[str]) -> Iterator[None]:
    """Requests made meanwhile copy no key of a cloud to the machines that they rent.

    By default SkyPilot copies those of every cloud to each machine. Ours have a role: SkyPilot's,
    or the one that its settings name for the cloud that they are rented of; without roles, a
    machine keeps the key of its own cloud, to end itself. For some clouds SkyPilot has no such
    settings: docs/guarantee.md names what it copies all the same.

    Args:
        clouds: of which machines are rented.
    """
    from sky.utils.registry import CLOUD_REGISTRY
    from sky.utils.schemas import get_config_schema

    from sky import skypilot_config

    config = skypilot_config.to_dict()
    for cloud in get_config_schema()["properties"].keys() & set(map(str.lower, CLOUD_REGISTRY)):
        setting = (cloud, "remote_identity")
        named = config.get_nested(setting, None)
        has_role = cloud in WITH_ROLES and named in (None, "LOCAL_CREDENTIALS")
        if cloud not in clouds or has_role:
            config.set_nested(setting, "NO_UPLOAD")
    with skypilot_config.replace_skypilot_config_in_process(config):
        yield


class _Redacted(io.TextIOWrapper):
    """A log without secrets. SkyPilot writes whole lines."""

    def write(self, text: str, /) -> int:
        super().write(redacted(text))
        return len(text)


def redacted_into(log: Path) -> IO[str]:
    return _Redacted(log.open("ab"), write_through=True)


def _within(seconds: float, work: Callable[[], object]) -> None:
    """Do something, and give up waiting for it after so many seconds.

    Raises:
        TimeoutError: it is not over. It goes on aside, and whatever comes of it is dropped.
    """
    failed: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            failed.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError
    if failed:
        raise failed[0]


@contextmanager
def _as_our_errors(cluster: str) -> Iterator[None]:
    """SkyPilot's many kinds of failure as the two that change what we do next."""
    import sky

    try:
        yield
    except sky.exceptions.ResourcesUnavailableError as error:
        raise NoCapacityError(f"no machine for {cluster}: {_first_line(error)}") from error
    except ProvisionError:
        raise
    except Exception as error:  # its requests re-raise whatever failed on its server
        raise ProvisionError(f"SkyPilot could not do {cluster}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = _COLOURS.sub("", redacted(str(error))).strip() or type(error).__name__
    return text.splitlines()[0][:300]
