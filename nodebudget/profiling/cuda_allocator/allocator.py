"""A model of PyTorch's CUDA caching allocator: what is reserved when these tensors come and go in this order.

The rules are those of `c10/cuda/CUDACachingAllocator.cpp` with its constants in `c10/core/AllocatorConfig.h`, at
their default settings and with `expandable_segments:True`. Left out: several streams, captured graphs, memory
pools of the user's own, and the settings that change sizes (`max_split_size_mb`, `roundup_power2_divisions`,
`garbage_collection_threshold`).
"""

from __future__ import annotations

import os

from nodebudget.errors import DoesNotFitError
from nodebudget.profiling.cuda_allocator.blocks import Block, Pool
from nodebudget.utils.byte_units import format_bytes

MIB = 2**20

MIN_BLOCK = 512  #: Sizes of blocks are multiples of it, bytes (kMinBlockSize).

#: Requests up to it go to the small pool (kSmallSize), whose segments or pages are of `SMALL_SEGMENT` (kSmallBuffer).
SMALL_REQUEST = MIB
SMALL_SEGMENT = 2 * MIB

#: Requests below it share segments of `LARGE_SEGMENT` (kMinLargeAlloc, kLargeBuffer), which is also the page of
#: the large expandable segment.
SHARED_REQUEST = 10 * MIB
LARGE_SEGMENT = 20 * MIB

ROUND_LARGE = 2 * MIB  #: Segments of larger requests are multiples of it (kRoundLarge).

#: Workspaces that PyTorch keeps for cuBLAS on most GPUs, bytes: one for the thread of the forward pass, one for that of
#: the backward pass. CUBLAS_WORKSPACE_CONFIG changes them (`aten/src/ATen/cuda/CublasHandlePool.cpp`).
CUBLAS_WORKSPACES = (8_519_680, 8_519_680)

CUBLAS_WORKSPACES_HOPPER = (2**25, 2**25)  #: The same from compute capability 9 (Hopper) on.
_RANGE = 2**46  #: Addresses of an expandable segment on a device of unknown memory: more than any device has.


def allocator_settings() -> str:
    """Return the settings of PyTorch's CUDA allocator in this process's environment, or "default"."""
    return os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or "default"


def has_expandable_segments(settings: str) -> bool:
    """Return whether allocator settings turn on expandable segments."""
    return "expandable_segments:true" in settings.lower().replace(" ", "")


class CachingAllocator:
    """Serves requests as PyTorch's allocator would, with addresses instead of memory.

    `capacity` limits the bytes held from the device; `expandable` is `expandable_segments:True`. It counts as
    `torch.cuda.memory_stats`: `requested` are bytes that live tensors asked for, `allocated` those of blocks with a
    live tensor, `reserved` those held from the device, each with its peak since the start or `reset_peaks`; `retries`
    is how often the device was full and the cache was emptied (`num_alloc_retries`).
    """

    def __init__(self, capacity: int | None = None, *, expandable: bool = False) -> None:
        self.capacity, self.expandable = capacity, expandable
        self.requested = self.allocated = self.reserved = self.retries = 0
        self.peak_requested = self.peak_allocated = self.peak_reserved = 0
        self._pools = (Pool(SMALL_SEGMENT, small=True), Pool(LARGE_SEGMENT, small=False))
        self._live: dict[int, Block] = {}
        self._next_address = 0
        self._start: dict[Pool, int] = {}

    def allocate(self, key: int, nbytes: int) -> None:
        """Serve a request of 0 bytes (as for an empty tensor) or more.

        The key identifies the tensor's memory until it is released. A key that is still live was released without being
        recorded, and is released now. Raises a DoesNotFitError if the capacity is used up, even with an empty cache.
        """
        self.free(key)
        if nbytes <= 0:
            return
        size = _round_up(nbytes, MIN_BLOCK)
        pool = self._pools[size > SMALL_REQUEST]
        block = self._cached(pool, size) or self._grow(pool, size) or self._retry(pool, size)
        if block is None:
            raise DoesNotFitError(
                f"a tensor of {format_bytes(nbytes)} does not fit beside {format_bytes(self.allocated)} of others",
                limit=f"{format_bytes(self.reserved)} of {format_bytes(self.capacity or 0)} are reserved",
                hint="make the batches smaller",
            )
        if self._is_split(block, size):
            pool.add(block.cut(size))
        block.allocated, block.requested = True, nbytes
        self._live[key] = block
        self.requested += nbytes
        self.peak_requested = max(self.peak_requested, self.requested)
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def free(self, key: int) -> None:
        """Release a tensor's memory into the cache; keys that are not live are ignored."""
        block = self._live.pop(key, None)
        if block is None:
            return
        self.allocated -= block.size
        self.requested -= block.requested
        block.allocated, block.requested = False, 0
        block.absorb()
        block.pool.add(block)

    def empty_cache(self) -> None:
        """Return to the device what no live tensor uses, as `torch.cuda.empty_cache` does."""
        for pool in self._pools:
            for block in pool.mapped():
                if self.expandable:
                    self._unmap(block)
                elif block.alone:
                    pool.remove(block)
                    self.reserved -= block.size

    def reset_peaks(self) -> None:
        """Set the peaks to the current values."""
        self.peak_requested, self.peak_allocated = self.requested, self.allocated
        self.peak_reserved = self.reserved

    def _cached(self, pool: Pool, size: int) -> Block | None:
        """Take the best fit out of the cache (get_free_block)."""
        candidates = pool.fitting(size)
        best = next(candidates, None)
        if best is None:
            return None
        if self.expandable:
            # The end of an expandable segment counts as large as it could grow.
            for other in candidates:
                if other.reach >= best.reach:
                    break
                best = other
        pool.remove(best)
        return best

    def _is_split(self, block: Block, size: int) -> bool:
        # should_split
        rest = block.size - size
        return rest >= MIN_BLOCK if block.pool.small or self.expandable else rest > SMALL_REQUEST

    def _grow(self, pool: Pool, size: int) -> Block | None:
        """Get memory from the device (alloc_block); None if it has none left."""
        if self.expandable:
            return self._expand(pool, size)
        wanted = segment_size(size)
        if not self._reserve(wanted):
            return None
        block = Block(pool, self._next_address, wanted)
        self._next_address += wanted
        return block

    def _retry(self, pool: Pool, size: int) -> Block | None:
        self.empty_cache()
        self.retries += 1
        return self._grow(pool, size)

    def _reserve(self, nbytes: int) -> bool:
        if self.capacity is not None and self.reserved + nbytes > self.capacity:
            return False
        self.reserved += nbytes
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True

    def _expand(self, pool: Pool, size: int) -> Block | None:
        """Map pages at the lowest address with enough space (try_allocate_expandable_block)."""
        block = self._find_unmapped(pool, size)
        if not block.mapped and not self._map(block, min(size, block.size)):
            return None
        while block.size < size:
            behind = block.after
            if behind is None or not self._map(behind, min(size - block.size, behind.size)):
                return None
            block = behind
        pool.remove(block)
        return block

    def _find_unmapped(self, pool: Pool, size: int) -> Block:
        """Find free and unmapped blocks in a row that hold `size` bytes (find_expandable_block)."""
        for unmapped in pool.unmapped():
            before = unmapped.before
            first = before if before is not None and not before.allocated else unmapped
            if _free_from(first, size) >= size:
                return first
        # A segment has addresses for 9/8 of the device's memory. That bounds what its end counts as when the
        # best fit is looked for, so how nearly full the device is changes which block is taken.
        wanted = _RANGE if self.capacity is None else _round_up(self.capacity + self.capacity // 8, pool.page)
        block = Block(pool, self._next_address, max(wanted, _round_up(size, pool.page)), mapped=False)
        # Two segments of a pool start a whole number of pages apart.
        self._start.setdefault(pool, self._next_address)
        self._next_address += _round_up(block.size, LARGE_SEGMENT)
        pool.add(block)
        return block

    def _map(self, block: Block, size: int) -> bool:
        """Map memory at the start of an unmapped block and join it with free neighbors (map_block)."""
        # Unmapped blocks start and end at the border of a page.
        wanted = _round_up(size, block.pool.page)
        if not self._reserve(wanted):
            return False
        block.pool.remove(block)
        if wanted < block.size:
            block.pool.add(block.cut(wanted))
        block.mapped = True
        block.absorb()
        block.pool.add(block)
        return True

    def _unmap(self, block: Block) -> None:
        """Return the whole pages of a free block (unmap_block)."""
        pool, page = block.pool, block.pool.page
        offset = block.address - self._start[pool]
        first, last = _round_up(offset, page), (offset + block.size) // page * page
        if first >= last:
            return
        pool.remove(block)
        if first > offset:
            head, block = block, block.cut(first - offset)
            pool.add(head)
        if last - first < block.size:
            pool.add(block.cut(last - first))
        block.mapped = False
        self.reserved -= block.size
        block.absorb()
        pool.add(block)


def segment_size(size: int) -> int:
    """Return the bytes that are asked of the device for a block of `size` bytes (get_allocation_size)."""
    if size <= SMALL_REQUEST:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < SHARED_REQUEST else _round_up(size, ROUND_LARGE)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _free_from(block: Block | None, enough: int) -> int:
    total = 0
    while block is not None and not block.allocated and total < enough:
        total += block.size
        block = block.after
    return total
