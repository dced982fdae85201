from array import array

def bin_intervals(
    stamps: list[int], tokens: list[int], bounds: array[int], counts: array[int], burst_ns: int, /
) -> tuple[int, int] | None: ...
