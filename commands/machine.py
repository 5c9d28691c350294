"""What the commands are told of a machine: a card, a models folder, a user folder, and what is in them."""

import argparse
from pathlib import Path

from ..base import environment
from ..base.state import state_file
from ..loaders.download import places, room
from ..loaders.download.extra_paths import extra_folders
from ..loaders.download.places import Places
from ..machine import gpus, this_computer
from ..machine.card import Card, computer
from ..planning.choose import choose
from ..planning.job import Find
from ..planning.solve import Host
from . import comfyui, user_folder

AMPERE = 86
THIS = "this"


def add_card(
    parser: argparse.ArgumentParser, required: bool = True, all_gpus: bool = True
) -> argparse._MutuallyExclusiveGroup:
    """--gpu, --vram, --all-gpus, of which one is given, and --sm. Returns the group, for more of its kind."""
    which = parser.add_mutually_exclusive_group(required=required)
    which.add_argument("--gpu", metavar="NAME|this", help="a card by name, such as 'RTX 4090', or this computer's")
    which.add_argument("--vram", type=float, metavar="GB", help="a card that is not in the table, by its memory")
    if all_gpus:
        which.add_argument("--all-gpus", action="store_true", help="the table of all cards")
    sm = "its compute capability, 89 for 8.9 (default: 86, RTX 30xx)"
    parser.add_argument("--sm", type=int, metavar="N", help=f"with --vram: {sm}")
    return which


def add_models_dir(parser: argparse.ArgumentParser) -> None:
    """--models-dir and --comfyui, for commands that look at model files."""
    parser.add_argument("--models-dir", type=Path, help="default: MODELS_DIR, else the models folder of this ComfyUI")
    parser.add_argument("--comfyui", type=Path, help="the ComfyUI whose models and extra_model_paths.yaml are meant")


def add_folders(parser: argparse.ArgumentParser) -> None:
    """The same and --user-dir, for commands that also read the user's own cards and measurements."""
    add_models_dir(parser)
    parser.add_argument("--user-dir", type=Path, help="ComfyUI's user folder (default: beside the models folder)")


def models(args: argparse.Namespace) -> Places:
    """Where the models are. Raises ValueError where nothing says it."""
    found = models_if_known(args)
    if found is None:
        raise ValueError(
            "Where the models belong is not known here. Give --models-dir or --comfyui, or set MODELS_DIR."
        )
    return found


def models_if_known(args: argparse.Namespace) -> Places | None:
    """The models folder as asked, as the environment says, or of the ComfyUI that this package is installed in; and the
    folders that this ComfyUI's extra_model_paths.yaml adds. None where nothing says it."""
    if args.comfyui and not (args.comfyui / "main.py").is_file():
        raise ValueError(f"There is no ComfyUI in {args.comfyui}: it has no main.py. Give the folder that has.")
    base, flags = args.comfyui or comfyui(), server_flags()
    extra = [path for path in [base and base / "extra_model_paths.yaml"] if path and path.is_file()]
    extra += [Path(path) for paths in flags.extra_model_paths_config for path in paths]
    found = [entry for path in extra for entry in extra_folders(path)]
    named = args.models_dir or (environment.text("MODELS_DIR") if not args.comfyui else "")
    if named:  # what is fetched goes there, whatever is_default says
        return Places(Path(named).expanduser(), [(kind, path, False) for kind, path, _ in found])
    if flags.models_directory or flags.base_directory:
        return Places(flags.models_directory or flags.base_directory / "models", found)
    return Places(base / "models", found) if base else None


def server_flags() -> argparse.Namespace:
    """Those of ComfyUI's flags in COMFYUI_ARGS that say where models are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--base-directory", type=Path)
    parser.add_argument("--models-directory", type=Path)
    parser.add_argument("--extra-model-paths-config", nargs="+", action="append", default=[])
    return parser.parse_known_args(environment.text("COMFYUI_ARGS").split())[0]


def state_of(args: argparse.Namespace, name: str) -> Path:
    """Where a file that outlasts a run is kept: in ComfyUI's user folder, as asked or beside the models folder."""
    where = models_if_known(args)
    return state_file(name, args.user_dir or user_folder(where.models_dir.parent if where else None))


def finder(where: Places | None) -> Find:
    """Path of a catalogue file id, or of a user's own file."""
    return places.finder(where, lambda name: Path(name) if Path(name).is_file() else None)


def cards_of(args: argparse.Namespace) -> list[Card]:
    """The cards that a command is about. Raises ValueError for a name that is in no table."""
    return list(gpus.cards()) if args.all_gpus else [card_of(args)]


def card_of(args: argparse.Namespace) -> Card:
    """The one card that was named. Raises ValueError where there is none of that name, or none in this computer."""
    if args.sm and args.vram is None:
        raise ValueError("--sm says more about --vram: give the card's memory too.")
    if args.vram is not None:
        return gpus.unlisted(args.vram, args.sm or AMPERE)
    if args.gpu.lower() != THIS:
        return gpus.card(args.gpu)
    try:
        return this_computer.present_card()
    except this_computer.NoCard as err:
        raise ValueError(f"--gpu this: {err}. Name a card, or give its memory with --vram.") from err


def host_of(args: argparse.Namespace, where: Places | None) -> Host:
    """The computer around the card: this one where the card is its own, else one that nothing is known of."""
    return this_host(where) if (args.gpu or "").lower() == THIS else Host()


def this_host(where: Places | None) -> Host:
    """This computer's RAM, as far as psutil is there to tell it, and the disk that is free for models."""
    try:
        from ..machine.memory import total_ram
    except ImportError:
        return Host()
    disk = room.usage(where.models_dir / "any").free if where else 0
    return Host(ram=total_ram(), disk=disk)


def what_auto_is(family: str, where: Places | None) -> str:
    """The variant of `auto` for commands that only look: one that is here, or what is taken where no card is known."""
    return choose(family, computer(), finder(where)).variant
