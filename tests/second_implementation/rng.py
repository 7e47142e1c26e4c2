"""Section 6: Philox4x32-10."""

MASK = 0xFFFFFFFF


def philox(counter, key, rounds=10):
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def words(seed, position, sample, domain):
    return philox((position & MASK, position >> 32, sample, domain), (seed & MASK, seed >> 32))


def draw(seed, position, sample, domain=1):
    w = words(seed, position, sample, domain)
    return w[1] << 32 | w[0]


def mulhi64(a, b):
    return a * b >> 64


def tie_hash(layer, position, expert):
    return philox((expert, position, layer, 0), (0x4A424D45, 0))[0]
