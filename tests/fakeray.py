"""Stands in for the module ``ray``: runs tasks here, through pickle as Ray does."""

import pickle


class FakeRay:
    """``dies``: the number of the task that does."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, dies: int | None = None) -> None:
        self.dies, self.started, self.open = dies, 0, False

    def init(self, **_: object) -> None:
        self.open = True

    def shutdown(self) -> None:
        self.open = False

    def remote(self, **_: object) -> object:
        ray = self

        class Task:
            def __init__(self, run: object) -> None:
                self.run = pickle.loads(pickle.dumps(run))

            def remote(self, job: object) -> object:
                ray.started += 1
                number = ray.started - 1
                made = lambda: pickle.loads(pickle.dumps(self.run(pickle.loads(pickle.dumps(job)))))  # noqa: E731
                return None if number == ray.dies else made

        return Task

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def wait(self, tasks: list[object], num_returns: int) -> tuple[list[object], list[object]]:
        """The last one ends first."""
        return tasks[-num_returns:], tasks[:-num_returns]

    def get(self, task: object) -> object:
        if task is None:
            raise self.exceptions.RayError("worker died\nout of memory")
        return task()  # type: ignore[operator]
