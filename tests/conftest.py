"""Shared by all tests: a house of its own for each, and goldens."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported: on a busy machine two threads are up to five times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"

pytest_plugins = ["loopback_s3"]

GOLDEN = Path(__file__).parent / "golden"

# A busy machine is no fault of the code: no example has a deadline.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """STILLHOUSE_HOME in the test's own folder: no test sees a person's runs."""
    home = tmp_path / "stillhouse-home"
    monkeypatch.setenv("STILLHOUSE_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return home


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has already migrated: copying it saves seconds a home."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").get_experiment_by_name("none")
    return path


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare text with `tests/golden/NAME`; `make golden` writes it again."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("STILLHOUSE_GOLDEN") == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden {name}: `make golden` writes it"
        assert text == path.read_text(), f"{name} changed: read the diff, then `make golden`"

    return compare
