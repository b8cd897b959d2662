"""Files as they arrive damaged, or as somebody made them who means no good."""


def mutated(body, rng):
    """A body with a few bytes changed, cut out, doubled or added."""
    body = bytearray(body)
    for _ in range(int(rng.integers(1, 4))):
        at, kind = int(rng.integers(0, len(body) + 1)), int(rng.integers(0, 5))
        if kind == 0 and at < len(body):
            body[at] = int(rng.integers(0, 256))
        elif kind == 1:
            del body[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            body[at:at] = body[max(0, at - int(rng.integers(1, 17))) : at]
        elif kind == 3:
            body[at : at + 4] = rng.bytes(4)
        elif at < len(body):
            body[at] ^= 1 << int(rng.integers(0, 8))
    return bytes(body)
