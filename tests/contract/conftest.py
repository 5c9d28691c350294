import pytest


@pytest.fixture(scope="session")
def our_nodes(comfy) -> dict[str, dict]:
    """What the server says of every node of ours, by id."""
    return {name: info for name, info in comfy.object_info().items() if name.startswith("SteadyDancer")}
