"""The launchers, where Hydra takes plugins from; see bench.launcher."""

from bench.launcher import CellLauncher


class InProcess(CellLauncher):
    """One cell after another, in this process."""

    queue = "bench.queues.InProcess"


class Ray(CellLauncher):
    """A process a cell, on this machine or on a Ray cluster."""

    queue, needs = "bench.queues.RayTasks", "ray"


class Slurm(CellLauncher):
    """A batch job a cell."""

    queue, needs = "bench.slurm.SlurmJobs", "submitit"
