"""Memory of an edit: what a row takes, how many edits fit into one call, and what is done when they were too many.

A row's peak is counted in activations [S,d] in the model's precision: S text and image tokens, d wide.
`CogVideoXBlock` and our processor hold at the same time, without gradients:

- in the feed-forward: the block's input, the sum after attention, attention's output, the normed tokens, and the hidden
  layer (4 d) before and after its GELU: 4 + 2·4 = 12;
- in RoPE of the keys: the block's input, its normed tokens, those joined with the text, q, k, v and the turned q, then
  on the image tokens the keys' turned halves and three float32 products: 7 + 1 + 3·4/itemsize, 14 in 16 bits;
- in two-part attention: input, normed and joined tokens, q, k, v, q folded, both parts and the merged one: 10, which
  is never the most.
"""

from __future__ import annotations

import gc
import itertools
import logging
import math
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cogvideo_core.errors import OutOfMemory
from cogvideo_core.models.lane import Lane
from cogvideo_core.settings.specs import RecipeSpec

logger = logging.getLogger(__name__)
Latents = tuple[int, int, int, int]
"""(f, C, h, w) of one row, the padding in front included."""
T = TypeVar("T")
R = TypeVar("R")

EDITS = (1, 2, 4, 8, 16)
"""The automatic choices: powers of two, so that a little more or less free memory changes nothing. 16 edits
are within 2.1 % of the cost of endlessly many (docs/performance.md), and an interruption loses the whole batch."""
GPU_SHARE, RAM_SHARE = 0.9, 0.5  # of what is free: kernels want scratch space, and decoding and storage work beside it
OUT_OF_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA out of memory")
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def row_bytes(config: Mapping[str, Any], latents: Latents, dtype: torch.dtype) -> int:
    """Estimated peak of one row in a call, beside the weights, as the module derives it. config: the transformer's."""
    f, _, h, w = latents
    patch, patch_t, text = config["patch_size"], config["patch_size_t"] or 1, config["max_text_seq_length"]
    image = (f // patch_t) * (h // patch) * (w // patch)
    width = config["num_attention_heads"] * config["attention_head_dim"] * dtype.itemsize
    activations = [12.0 * (text + image)]
    if config["use_rotary_positional_embeddings"]:
        activations.append(7 * (text + image) + (1 + 3 * 4 / dtype.itemsize) * image)
    # held by the callers: the state, its rows, the joined rows, and the model's copy; the same for the prompts
    inputs = 4 * (4 * math.prod(latents) + dtype.itemsize * text * config["text_embed_dim"])
    return int(max(activations) * width) + inputs


def most_rows(recipe: RecipeSpec, edits: int) -> int:
    """Rows of the fullest call that `edits` edits make."""
    guided = recipe.guidance_scale != 1 and recipe.guidance_end > recipe.guidance_start
    rows = (2 if guided else 1) * edits
    if recipe.reference_weight == 0 or recipe.reference_end == recipe.reference_start:
        return rows
    rows += {"edit": edits, "per_half": rows}.get(recipe.reference_prompt, 1)
    return rows if recipe.anchor == "none" else 2 * rows


def edits_that_fit(free: int, per_row: int, recipe: RecipeSpec) -> int:
    """The most of `EDITS` whose rows stay within `free` bytes; at least one."""
    return max((n for n in EDITS if most_rows(recipe, n) * per_row <= free), default=1)


def free_bytes(device: torch.device) -> int:
    """Bytes a call may take on this device: a share of what is free."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, to be used again
        return int(GPU_SHARE * (torch.cuda.mem_get_info(device)[0] + kept))
    return int(RAM_SHARE * min(psutil.virtual_memory().available, _left_in_container()))


def _left_in_container() -> int:
    """Bytes left to this container's limit; a process above it is killed."""
    return max(container_bytes() - psutil.Process().memory_info().rss, 0)


def container_bytes() -> int:
    """This container's limit, as far as it has one."""
    for path in CONTAINER_LIMITS:
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return sys.maxsize


def give_back() -> None:
    """Frees what nobody holds any more, on the GPU as well."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing without a GPU


class Room:
    """How many edits a call of one loaded model may have: chosen once for each kind of work, halved when too many."""

    def __init__(self, lane: Lane | None = None) -> None:
        """lane: of the VAE, which may be computing at the same time."""
        self.chosen: dict[tuple[Latents, str], int] = {}
        self.most, self.lane = 64, lane

    def halve(self, edits: int) -> None:
        """After a call of so many edits ran out of memory."""
        self.most = min(self.most, edits // 2)
        give_back()
        logger.warning("memory ran out with %d edits in a call; going on with %d", edits, self.most)


def ran_out_of_memory(error: Exception) -> bool:
    """Whether memory was too small, on the GPU or on the CPU, where torch says so in words alone."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError, OutOfMemory)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def as_many_as_fit(items: Sequence[T], room: Room, run: Callable[[Sequence[T]], R], what: str) -> tuple[Sequence[T], R]:
    """As many of the first `items` as there is room for, and run() of them.

    When memory runs out, the VAE gives up its lane if it has one; then the room is halved for the rest of the process
    and fewer are tried. Raises OutOfMemory, which names `what`, when a single item is too much.
    """
    while True:
        part, beside = items[: room.most], room.lane is not None and room.lane.beside
        try:
            return part, run(part)
        except Exception as error:
            if isinstance(error, OutOfMemory) or not ran_out_of_memory(error):  # fewer edits would not help the former
                raise
            if len(part) == 1 and not beside:
                raise OutOfMemory(f"{what}: {SMALLER}") from error
        # out here, where the failed call's tensors are no longer held by its traceback
        if room.lane is not None and beside:
            logger.warning("memory ran out with %d edits in a call; going on with %s", len(part), room.lane.leave())
            give_back()
        else:
            room.halve(len(part))


SMALLER = (
    "memory does not suffice for one row of the transformer; use fewer frames or a smaller size (dataset.frames, "
    "height, width), 16 bits (model.dtype), or CPU offload (model.offload)"
)


def peak_bytes(call: Callable[[], Any]) -> int:
    """Peak bytes that torch allocates on the CPU, beyond what was held before; oneDNN's scratch is not seen."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


class Lifetimes(TorchDispatchMode):
    """Peak bytes of all live tensors made inside, tracked by their storages; also on the meta device.

    What a kernel takes for itself while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in self.alive:
                self._enter(tensor.untyped_storage())
        return out

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def leave(_: object) -> None:
            del self.alive[key]
            self.now -= size

        self.alive[key] = weakref.ref(storage, leave)
        self.now += size
        self.peak = max(self.peak, self.now)
