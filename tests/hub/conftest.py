"""One server that speaks the Hub's API, and one client process that forks, for all tests of this folder."""

import pytest

from support.hub_client import HubClient, hub_client
from support.hub_server import HubServer, running_hub


@pytest.fixture(scope="session")
def served():
    with running_hub() as server:
        yield server


@pytest.fixture(scope="session")
def hub_cache(tmp_path_factory):
    """Folder of the client's default cache and token."""
    return tmp_path_factory.mktemp("hub-home")


@pytest.fixture(scope="session")
def client(served, hub_cache) -> HubClient:
    with hub_client(served.client_environment(hub_cache)) as client:
        yield client


@pytest.fixture
def hub(served) -> HubServer:
    """The server, without faults and with an empty list of requests."""
    served.faults = lambda request: None
    served.requests.clear()
    yield served
    served.faults = lambda request: None
