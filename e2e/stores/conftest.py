"""Fixtures: a store of each kind with one bucket, and the way to it on which requests fail."""

import contextlib
import pathlib
import sys

import pytest
from kinds import KINDS
from proxy import Proxy

sys.path.append(str(pathlib.Path(__file__).parents[2] / "clients" / "tests"))

from harness import wait_until


@contextlib.contextmanager
def serving(kind, folder, leaf=None):
    store = KINDS[kind](folder, leaf)
    try:
        store.start()
        wait_until(store.is_up, "the store accepts connections")
        yield store
    finally:
        store.stop()


@pytest.fixture(params=KINDS)
def kind(request):
    """Every test that asks for a store runs over each."""
    return request.param


@pytest.fixture
def serve():
    """For a test that starts a store of its own, such as one with TLS."""
    return serving


@pytest.fixture
def store(kind, tmp_path):
    with serving(kind, tmp_path / "store") as store:
        yield store


@pytest.fixture
def gcs(tmp_path):
    """For what is a matter of GCS alone."""
    with serving("gcs", tmp_path / "store") as store:
        yield store


@pytest.fixture
def proxy(store):
    proxy = Proxy(store.port, store.throttled)
    try:
        yield proxy
    finally:
        proxy.stop()
