"""Processes that train together, one a GPU, as torchrun starts them: `world` of them, by `rank`.

The first process (rank 0) alone reads and writes the run's folder, generates, evaluates and speaks;
the others train when it does. Alone, everything here is free and torch.distributed is not touched.

What goes wrong in another process the first one hears beside the collectives, in which it may be
waiting for that process: by torchrun's store, from a thread of its own.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from distill.context import WorkerError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup
    from torch.distributed.distributed_c10d import Store

Shared = TypeVar("Shared")

STAGE_LIMIT = timedelta(days=7)
"""How long the others wait for the first: it generates and evaluates while they have nothing to do.

A first process that died does not keep them: torchrun ends them then.
"""

LISTEN_EVERY_S = 0.5
"""How often the first process asks whether something went wrong in another one [s]."""

FAILURE, GIVEN_UP = "failure", "given up"
"""Keys of the store: what went wrong in a process; that the first has said it, or has failed."""


class Team:
    """One process alone."""

    rank = 0
    world = 1

    lost = False
    """Whether the others wait in the middle of a step that will not go on: torchrun ends them."""

    def share(self, make: Callable[[], Shared]) -> Shared:
        """What `make` returns in the first process, in all of them."""
        return make()

    def agree(self, number: int) -> int:
        """The largest number that one of the processes brings, in all of them."""
        return number

    def add(self, number: "Tensor") -> "Tensor":
        """The sum over all processes, in all of them."""
        return number

    def split(self, module: "nn.Module", layers: list["nn.Module"], dtype: "torch.dtype") -> None:
        """Give each process its part of a module's weights; passes run in `dtype`."""

    def whole(self, weight: "Tensor") -> "Tensor":
        """A weight's full value: in the first process, on its CPU where there are several."""
        return weight

    def part(self, whole: "Tensor | None", like: "Tensor") -> "Tensor":
        """This process's part of what the first holds whole, laid out as `like` is."""
        assert whole is not None, "the first process holds it"
        return whole.to(like.device)

    def listen(self, on_failure: Callable[[WorkerError], None]) -> None:
        """In the first process: have `on_failure` called, from another thread, with what goes wrong
        in one of the others. It is called once, and ends this process."""

    def tell(self, failure: WorkerError, is_ending: Callable[[], bool]) -> None:
        """In another process: have the first one say what went wrong here.

        Returns once it has, or `is_ending`: a process that went at once would break the collective
        in which the first one waits, which would then name that as the fault.
        """

    def has_given_up(self) -> bool:
        """Whether the first process has failed, so that whatever breaks here follows from that."""
        return False

    def give_up(self) -> None:
        """In the first process: everything is said, and the others may go."""

    def leave(self) -> None:
        """The work is over, in all processes."""


ALONE = Team()


def join() -> Team:
    """The team that torchrun's variables name; a team of one without them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    return TorchTeam()


class TorchTeam(Team):
    """Several processes; weights are sharded among them (FSDP2)."""

    def __init__(self) -> None:
        import torch
        from torch import distributed
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        kind = "cuda" if torch.cuda.is_available() else "cpu"
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        store, self.rank, self.world = next(rendezvous("env://"))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=self.rank,
            world_size=self.world,
        )
        self._store: Store = PrefixStore("stillhouse", store)
        self._is_over = threading.Event()
        self._listener: threading.Thread | None = None
        self._mesh = init_device_mesh(kind, (self.world,))
        # Small words go over the CPU, so that they neither wait for the GPU nor time out.
        self._words: ProcessGroup = distributed.new_group(backend="gloo", timeout=STAGE_LIMIT)

    def share(self, make: Callable[[], Shared]) -> Shared:
        from torch import distributed

        box = [make() if self.rank == 0 else None]
        distributed.broadcast_object_list(box, src=0, group=self._words)
        shared: Any = box[0]
        return shared  # type: ignore[no-any-return]

    def agree(self, number: int) -> int:
        import torch
        from torch import distributed

        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._words)
        return int(largest)

    def add(self, number: "Tensor") -> "Tensor":
        from torch import distributed

        distributed.all_reduce(number)
        return number

    def split(self, module: "nn.Module", layers: list["nn.Module"], dtype: "torch.dtype") -> None:
        import torch
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for layer in layers:
            fully_shard(layer, mesh=self._mesh, mp_policy=policy)
        fully_shard(module, mesh=self._mesh, mp_policy=policy)
        for piece in module.modules():
            if isinstance(piece, FSDPModule):
                # The loss is divided by the whole batch's tokens already: add, do not average.
                piece.set_gradient_divide_factor(1.0)
                piece.set_force_sum_reduction_for_comms(True)

    def whole(self, weight: "Tensor") -> "Tensor":
        from torch.distributed.tensor import DTensor

        full = weight.full_tensor() if isinstance(weight, DTensor) else weight
        return full.cpu() if self.rank == 0 else full.new_empty(0)

    def part(self, whole: "Tensor | None", like: "Tensor") -> "Tensor":
        import torch
        from torch import distributed
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert whole is not None or self.rank > 0, "the first process holds it"
        if whole is None:
            full = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        else:
            full = whole.to(like.device, like.dtype).contiguous()
        if isinstance(like, DTensor):
            return distribute_tensor(full, self._mesh, like.placements)
        distributed.broadcast(full, src=0)
        return full

    def listen(self, on_failure: Callable[[WorkerError], None]) -> None:
        def listen() -> None:
            while not self._is_over.wait(LISTEN_EVERY_S):
                if self._store.check([FAILURE]):
                    on_failure(WorkerError(*json.loads(self._store.get(FAILURE))))
                    return

        # A daemon: a process that ends for reasons of its own must not wait for it.
        self._listener = threading.Thread(target=listen, name="team", daemon=True)
        self._listener.start()

    def tell(self, failure: WorkerError, is_ending: Callable[[], bool]) -> None:
        where = f"in process {self.rank + 1} of {self.world}"
        words = [failure.code, f"{where} {failure.message}", failure.remedy]
        if not self.has_given_up():
            self._store.set(FAILURE, json.dumps(words))
        while not self.has_given_up() and not is_ending():
            time.sleep(LISTEN_EVERY_S)

    def has_given_up(self) -> bool:
        from torch.distributed import DistError

        try:
            return self._store.check([GIVEN_UP])
        except DistError:  # where there is no torchrun, the store goes with the first process
            return True

    def give_up(self) -> None:
        self._store.set(GIVEN_UP, "")

    def leave(self) -> None:
        from torch import distributed

        self._is_over.set()
        if self._listener is not None:
            self._listener.join()
        distributed.destroy_process_group()
