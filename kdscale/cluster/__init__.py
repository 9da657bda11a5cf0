"""Work on Ray: independent tasks as resources allow, and groups of ranks that train one model together.

Ray must be connected already (the launcher's business). Nothing large passes through here: functions get paths and
recipes and leave their results in the run directory.
"""

from kdscale.cluster.crashes import CRASHES, cause_of, traceback_of
from kdscale.cluster.queues import Groups, Owner, Tasks, drive
from kdscale.cluster.resources import Needs, capacity, check_fits, fullest, needs, places, ranks, whereabouts

__all__ = [
    "CRASHES",
    "Groups",
    "Needs",
    "Owner",
    "Tasks",
    "capacity",
    "cause_of",
    "check_fits",
    "drive",
    "fullest",
    "needs",
    "places",
    "ranks",
    "traceback_of",
    "whereabouts",
]
