"""English labels, locales/en/nodeDefs.json, as the schemas of the nodes say them.

`python dev.py test contract -- --update-snapshot` writes them together with the snapshot of the schemas. Other languages
are written by hand; a test says what they lack.
"""

from __future__ import annotations


def english(object_info: dict[str, dict]) -> dict[str, dict]:
    """The labels of all nodes in `object_info`, as ComfyUI's page reads them."""
    return {node: label(info) for node, info in object_info.items()}


def label(info: dict) -> dict:
    """What the page shows of one node: its name, description, inputs and outputs, those that it has."""
    made = {"display_name": info["display_name"], "description": info["description"]}
    made["inputs"] = {
        name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
        for name, options in inputs(info).items()
    }
    made["outputs"] = {str(i): {"name": name} for i, name in enumerate(info["output_name"])}
    return {part: value for part, value in made.items() if value}


def inputs(info: dict) -> dict[str, dict]:
    """Input id → its options, without the hidden ones; what a dynamic combo brings along is included."""
    found = {}

    def add(group: dict, prefix: str = "") -> None:
        for kind in ("required", "optional"):
            for name, (_, *options) in group.get(kind, {}).items():
                settings = options[0] if options else {}
                found[prefix + name] = settings
                for choice in settings.get("options", []):
                    if isinstance(choice, dict) and "inputs" in choice:
                        add(choice["inputs"], f"{prefix}{name}.")

    add(info["input"])
    return found
