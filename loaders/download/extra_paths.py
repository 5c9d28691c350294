"""Model folders that ComfyUI's extra_model_paths.yaml adds, read as ComfyUI reads it (utils/extra_config.py)."""

import os
from pathlib import Path

LEGACY = {"unet": "diffusion_models", "clip": "text_encoders"}
INDICATORS = ("[", "{", "&", "*", "!", "%", "@", "`")


def extra_folders(path: Path) -> list[tuple[str, Path, bool]]:
    """Kind of models, folder, and whether it comes before ComfyUI's own, in the order of the file.

    Raises ValueError naming the file where it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ValueError(f"{path} cannot be read: {getattr(err, 'strerror', '') or 'it is not UTF-8 text'}.") from err
    found = []
    for section in document(text, path).values():
        if not section:
            continue
        if not isinstance(section, dict):
            raise ValueError(f"{path} is not what ComfyUI expects: sections with a base_path and folders below them.")
        here = path.absolute().parent
        base = here / os.path.expandvars(os.path.expanduser(str(section.get("base_path") or ".")))
        for kind, folders in section.items():
            if kind in ("base_path", "is_default") or not isinstance(folders, str):
                continue
            for folder in folders.split("\n"):
                if folder:
                    place = Path(os.path.normpath(base / folder))
                    found.append((LEGACY.get(kind) or kind, place, bool(section.get("is_default"))))
    return found


def document(text: str, path: Path) -> dict:
    """The file's mapping: by PyYAML, and without it by `plain_document`. Raises ValueError with the line that is wrong."""
    try:
        import yaml
    except ModuleNotFoundError:
        return plain_document(text, path)
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as err:
        mark = getattr(err, "problem_mark", None)
        raise ValueError(f"{path} is no valid YAML{f', line {mark.line + 1}' if mark else ''}. Correct it.") from err
    if not isinstance(found or {}, dict):
        raise ValueError(f"{path} is not what ComfyUI expects: sections with a base_path and folders below them.")
    return found or {}


def plain_document(text: str, path: Path) -> dict:
    """The YAML that such files are written in: sections, `key: value` below them, lists of folders after `|`.

    Raises ValueError for anything else of YAML, naming the line.
    """
    sections: dict[str, dict] = {}
    section: dict | None = None
    indent: int | None = None
    block_indent: int | None = None
    block = ""  # the key whose lines follow
    for number, line in enumerate(text.splitlines(), 1):
        depth, content = len(line) - len(line.lstrip(" ")), line.strip()
        if block and section is not None and indent is not None:
            if not content or depth > indent:
                block_indent = depth if block_indent is None and content else block_indent
                section[block] += content and line[block_indent:].rstrip() + "\n"
                continue
            block = ""
        if not content or content.startswith("#") or content == "---":
            continue
        key, colon, value = content.partition(":")
        value = value.split(" #")[0].strip() if not value.strip().startswith(("'", '"')) else value.strip()
        if (
            not colon
            or (value and not content[len(key) + 1 :].startswith(" "))
            or value.startswith((*INDICATORS, "- "))
        ):
            raise unknown(path, number)
        if depth == 0:
            if value:
                raise unknown(path, number)
            section, indent = sections.setdefault(unquoted(key), {}), None
            continue
        indent = depth if indent is None else indent
        if section is None or depth != indent or "\t" in line[:depth]:
            raise unknown(path, number)
        if value in ("|", "|-", "|+"):
            block, block_indent = unquoted(key), None
            section[block] = ""
        elif value.startswith((">", "|")):
            raise unknown(path, number)
        else:
            section[unquoted(key)] = {"true": True, "false": False}.get(value.lower(), unquoted(value))
    return sections


def unquoted(text: str) -> str:
    """A YAML scalar without the quotes around it."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def unknown(path: Path, number: int) -> ValueError:
    """The error for a line that only PyYAML can read."""
    return ValueError(
        f"{path}, line {number}, is written in a way that needs PyYAML to be read. "
        "Run this with ComfyUI's Python, or install PyYAML."
    )
