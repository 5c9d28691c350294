"""ENABLE_R2_SYNC: ComfyUI's output folder goes to the bucket while the server runs, and a route tells how it stands."""

import logging
import threading
from typing import TYPE_CHECKING

from ..base import environment
from ..base.plain import one_line
from ..base.reason import reason
from .web_server import web_server

if TYPE_CHECKING:
    from ..bucket.sync import Sync

ROUTE = "/steadydancer/r2"
THREAD = "r2-sync"
UNUSABLE = "The save profile is not usable; the log says why."
RETRY_PROFILE = 30.0  # seconds between two looks for a usable profile

log = logging.getLogger(__name__)


running: "Watch | None" = None  # this server's, where ENABLE_R2_SYNC asks for one


class Watch:
    """The folder sync of this server, in a thread of its own; boto3 is imported there, when the first file is sent."""

    def __init__(self) -> None:
        self.sync: Sync | None = None
        self.problem = ""

    def start(self) -> None:
        """Starts the thread, which ends with the process."""
        threading.Thread(target=self._run, name=THREAD, daemon=True).start()

    def status(self) -> dict:
        """What is sent, waiting and failing, in words that hold no key, endpoint or absolute path."""
        if self.sync is None:
            return {"enabled": True, "problem": self.problem}
        return {"enabled": True, "problem": self.sync.journal.problem} | self.sync.status()

    def _run(self) -> None:
        from ..bucket import profiles
        from ..bucket.sync import Sync
        from .r2_sender import NO_PROFILE, bucket_of, config, journal, output_folder

        wait, logged = threading.Event(), ""
        while self.sync is None:
            try:
                profile = profiles.find(profiles.AUTO, config())
                self.problem = why = "" if profile else f"Files are {NO_PROFILE}."
                if profile:
                    self.sync = Sync(output_folder(), bucket_of(profile), journal())
            except (OSError, ValueError) as err:  # it may hold a path, and anyone may read the route
                self.problem, why = UNUSABLE, reason(err)
            if why and why != logged:
                log.warning("R2 sync waits for a save profile. %s", why)
            logged = why
            if why:
                wait.wait(RETRY_PROFILE)
        log.info("R2 sync: %s is kept in bucket '%s'", self.sync.folder, self.sync.bucket.name)
        self.sync.run(wait, lambda path, key: log.info("R2 sync: %s → %s", one_line(path.name), key))


def start() -> None:
    """Starts the watch if ENABLE_R2_SYNC says so, and adds the route where there is a web server; both once a process."""
    global running
    if any(thread.name == THREAD for thread in threading.enumerate()):
        return
    watch, problem = Watch(), ""
    try:
        enabled = environment.flag("ENABLE_R2_SYNC")
    except ValueError as err:  # anyone may ask the route why nothing is sent
        enabled, problem = False, str(err)
        log.warning("R2 sync is off. %s", problem)
    if enabled:
        watch.start()
        running = watch
    routes = getattr(web_server(), "routes", None)
    if routes is not None and ROUTE not in [getattr(route, "path", "") for route in routes]:
        from aiohttp import web  # a ComfyUI without a web server need not have it

        @routes.get(ROUTE)
        async def status(request: web.Request) -> web.Response:
            return web.json_response(watch.status() if enabled else {"enabled": False, "problem": problem})
