import pytest


@pytest.fixture(scope="session")
def our_nodes(comfy_server) -> dict[str, dict]:
    """What the server says of every node of ours, by id."""
    found = {name: info for name, info in comfy_server.object_info().items() if name.startswith("SteadyDancer")}
    assert len(found) > 20, "tests that go over all of them would go over none"
    return found
