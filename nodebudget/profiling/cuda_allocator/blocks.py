"""Blocks of device memory and the pools that keep the free ones, as PyTorch's caching allocator has them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator


class Block:
    """A range of addresses in one segment.

    Attributes:
        address: Where it starts.
        size: Bytes.
        pool: Where it goes when it is free.
        allocated: A tensor lives in it.
        requested: Bytes that the tensor asked for; 0 without one.
        mapped: Memory of the device is mapped to it; always true without expandable segments.
        before: The block that ends where this one starts, in the same segment.
        after: The block that starts where this one ends.
    """

    __slots__ = ("address", "after", "allocated", "before", "mapped", "pool", "requested", "size")

    def __init__(self, pool: Pool, address: int, size: int, *, mapped: bool = True) -> None:
        self.pool, self.address, self.size, self.mapped = pool, address, size, mapped
        self.allocated, self.requested = False, 0
        self.before: Block | None = None
        self.after: Block | None = None

    @property
    def alone(self) -> bool:
        """Whether it is a whole segment."""
        return self.before is None and self.after is None

    @property
    def reach(self) -> int:
        """Bytes that it could grow to by mapping the block after it."""
        after = self.after
        return self.size + (after.size if after is not None and not after.mapped else 0)

    def cut(self, size: int) -> Block:
        """Keep the first `size` bytes; return the rest as a new block, in no pool yet."""
        rest = Block(self.pool, self.address + size, self.size - size, mapped=self.mapped)
        rest.before, rest.after = self, self.after
        if rest.after is not None:
            rest.after.before = rest
        self.after, self.size = rest, size
        return rest

    def absorb(self) -> None:
        """Join with the free neighbors of its kind (mapped or not), and take them out of their pool."""
        for other in (self.before, self.after):
            if other is None or other.allocated or other.mapped != self.mapped:
                continue
            self.pool.remove(other)
            if other is self.before:
                self.address, self.before = other.address, other.before
            else:
                self.after = other.after
            self.size += other.size
        if self.before is not None:
            self.before.after = self
        if self.after is not None:
            self.after.before = self


class Pool:
    """The free blocks of small or of large requests, the mapped ones by size and the unmapped ones by address.

    `page` is the bytes of a page of its expandable segment.
    """

    def __init__(self, page: int, *, small: bool) -> None:
        self.page, self.small = page, small
        self._by_size: list[tuple[int, int]] = []
        self._unmapped: list[int] = []
        self._at: dict[int, Block] = {}

    def add(self, block: Block) -> None:
        """Add a free block."""
        self._at[block.address] = block
        if block.mapped:
            insort(self._by_size, (block.size, block.address))
        else:
            insort(self._unmapped, block.address)

    def remove(self, block: Block) -> None:
        """Remove a free block."""
        del self._at[block.address]
        if block.mapped:
            del self._by_size[bisect_left(self._by_size, (block.size, block.address))]
        else:
            del self._unmapped[bisect_left(self._unmapped, block.address)]

    def fitting(self, size: int) -> Iterator[Block]:
        """Iterate over the mapped free blocks of at least `size` bytes, smallest first, then by address."""
        for place in range(bisect_left(self._by_size, (size, 0)), len(self._by_size)):
            yield self._at[self._by_size[place][1]]

    def mapped(self) -> list[Block]:
        """Return the mapped free blocks, smallest first."""
        return [self._at[address] for _, address in self._by_size]

    def unmapped(self) -> Iterator[Block]:
        """Iterate over the unmapped blocks in the order of their addresses."""
        for address in self._unmapped:
            yield self._at[address]
