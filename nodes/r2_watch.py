"""ENABLE_R2_SYNC: ComfyUI's output folder goes to the bucket while the server runs, and a route tells how it stands."""

import logging
import threading

from aiohttp import web
from server import PromptServer

from .. import environment

ROUTE = "/steadydancer/r2"
UNUSABLE = "The save profile is not usable; the log says why."
RETRY_PROFILE = 30.0  # seconds between two looks for a usable profile

log = logging.getLogger(__name__)


class Watch:
    """The folder sync of this server, in a thread of its own; boto3 is imported there, when the first file is sent."""

    def __init__(self):
        self.sync = None
        self.problem = ""

    def start(self) -> None:
        threading.Thread(target=self._run, name="r2-sync", daemon=True).start()

    def status(self) -> dict:
        """What is sent, waiting and failing, in words that hold no key, endpoint or absolute path."""
        if self.sync is None:
            return {"enabled": True, "problem": self.problem}
        return {"enabled": True, "problem": self.sync.journal.problem} | self.sync.status()

    def _run(self) -> None:
        from ..storage import profiles
        from ..storage.keys import shown
        from ..storage.sync import Sync
        from .r2_service import NO_PROFILE, bucket_of, config, journal, output_folder

        wait, logged = threading.Event(), ""
        while self.sync is None:
            try:
                profile = profiles.find(profiles.AUTO, config())
                self.problem = reason = "" if profile else f"Files are {NO_PROFILE}."
                if profile:
                    self.sync = Sync(output_folder(), bucket_of(profile), journal())
            except (OSError, ValueError) as err:  # it may hold a path, and anyone may read the route
                self.problem, reason = UNUSABLE, str(err)
            if reason and reason != logged:
                log.warning("R2 sync waits for a save profile. %s", reason)
            logged = reason
            if reason:
                wait.wait(RETRY_PROFILE)
        log.info("R2 sync: %s is kept in bucket '%s'", self.sync.folder, profile.bucket)
        self.sync.run(wait, lambda path, key: log.info("R2 sync: %s → %s", shown(path.name), key))


def start() -> None:
    """Adds the route, and starts the watch if ENABLE_R2_SYNC says so."""
    watch, problem = Watch(), ""
    try:
        enabled = environment.flag("ENABLE_R2_SYNC")
    except ValueError as err:  # the nodes must load all the same
        enabled, problem = False, str(err)
        log.warning("R2 sync is off. %s", problem)
    if enabled:
        watch.start()

    @PromptServer.instance.routes.get(ROUTE)
    async def status(request):
        return web.json_response(watch.status() if enabled else {"enabled": False, "problem": problem})
