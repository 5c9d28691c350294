"""ComfyUI starts with the package in it and has nothing to complain about."""


def test_package_is_loaded_without_a_warning(comfy):
    log = comfy.log()
    assert "custom_nodes/steadydancer" in log.replace("\\", "/")
    assert "IMPORT FAILED" not in log
    assert "Error while calling comfy_entrypoint" not in log
