"""The work that is done once for all processes: jobs on timers, one transaction each, behind an advisory lock; there is no leader."""
