"""Who answers for a role: its own engines, on the nodes it was given, or a server."""

from __future__ import annotations

from dataclasses import replace

from eval.engines import ray_workers
from eval.engines.answering import Answering
from eval.engines.endpoint import EndpointModel
from eval.engines.local import LocalWorker
from eval.engines.pool import EngineLost, Pool, Worker
from eval.engines.server import Server
from eval.settings import Endpoint, Settings
from jobs.entry import Context
from jobs.grpo import cluster
from jobs.grpo.ray_session import RaySession
from orchestrator.errors import RunFailed


class Crew:
    """The engines of an evaluation, one model after the other. Close it."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._context = context
        self._settings = settings
        self._nodes = cluster.own(context)
        self._session: RaySession | None = None

    async def meet(self) -> None:
        """Gather the nodes of the role, if there are several: they wait for our Ray, and not for long."""
        if len(self._nodes.hosts) > 1:
            await self._ray()

    async def hire(self, label: str) -> Answering:
        """Return who answers for a model, ready to be asked.

        Raises:
            NotFound: There is no such server.
            EngineLost: An engine died while it started.
            RunFailed: Nodes are missing, or an engine did not start in time.
        """
        model = self._settings.models[label]
        if isinstance(model, Endpoint):
            context = self._context
            server = await Server.open(f"models.{label}", model, context.run, context.generation, context.progress)
            return EndpointModel(server, model, self._settings)
        return Pool(await self._workers(model), timeout_s=self._settings.answer_timeout_s, lost=self._note)

    async def close(self) -> None:
        """End Ray and let the other nodes go."""
        if self._session is not None:
            self._session.close()

    async def _workers(self, model: str) -> list[Worker]:
        if self._context.plan is None:
            import torch  # by hand no plan says how many GPUs there are

            self._nodes = replace(self._nodes, gpus_per_node=torch.cuda.device_count())
        models = sum(isinstance(model, str) for model in self._settings.models.values())
        count = ray_workers.count(self._settings, self._nodes, models)
        if count == 0:
            return [await LocalWorker.start(self._settings, model)]
        await self._ray()
        self._context.progress.update(f"loading {model}", message=f"{count} engine(s)")
        try:
            return list(await ray_workers.start(self._settings, model, self._nodes, count))
        except TimeoutError:
            raise RunFailed(
                f"engines: {model} was not loaded within {self._settings.start_timeout_s:g} s. Their log says how far "
                "they came; start_timeout_s is the limit."
            ) from None

    async def _ray(self) -> None:
        if self._session is None:
            self._context.progress.update("starting Ray", message=f"on {len(self._nodes.hosts)} node(s)")
            self._session = await RaySession.start(self._context, self._nodes)
            await self._session.wait_for_nodes(self._context, self._settings.ray_start_timeout_s)

    def _note(self, error: EngineLost, given_back: int) -> None:
        self._context.ledger.append("engine_lost", why=str(error).splitlines()[0], given_back=given_back)
