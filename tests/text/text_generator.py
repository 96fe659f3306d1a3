"""Texts of every kind out of a number; generated_texts.cpp is the same in C++. Change both together, and write the goldens again."""

MASK = (1 << 64) - 1

# Assigned characters of many scripts; of blocks that were finished before Unicode 14, as the oracle and PCRE2 differ in version.
RANGES = [
    (0x00A1, 0x024F), (0x0250, 0x02AF), (0x0300, 0x036F), (0x0391, 0x03A1), (0x03B1, 0x03FF), (0x0400, 0x052F), (0x0561, 0x0587), (0x05D0, 0x05EA),
    (0x0621, 0x063A), (0x0660, 0x0669), (0x0905, 0x0939), (0x093E, 0x094D), (0x0995, 0x09A8), (0x0E01, 0x0E3A), (0x0E40, 0x0E5B), (0x10D0, 0x10FF),
    (0x1100, 0x11FF), (0x1780, 0x17DD), (0x1E00, 0x1EFF), (0x2010, 0x2027), (0x2030, 0x205E), (0x2070, 0x2071), (0x2074, 0x208E), (0x20A0, 0x20BF),
    (0x2100, 0x218B), (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF), (0x3001, 0x303F), (0x3041, 0x3096), (0x30A0, 0x30FF), (0x4E00, 0x9FEF),
    (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xFB00, 0xFB06), (0xFE00, 0xFE0F), (0xFF01, 0xFF9F), (0x10400, 0x1044F), (0x1D400, 0x1D454),
    (0x1D7CE, 0x1D7FF), (0x1F300, 0x1F64F), (0x1F680, 0x1F6C5), (0x1F910, 0x1F93E), (0x20000, 0x2A6D6), (0xE0020, 0xE007F), (0xF0000, 0xF00FF),
]
SPACES = [0x20, 0x20, 0x20, 0x20, 0x0A, 0x09, 0x0D, 0x0B, 0x0C, 0x85, 0xA0, 0x1680, 0x180E, 0x2002, 0x2009, 0x200B, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF,
          0x1C, 0x1F]
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def fnv1a(numbers):
    h = 0xCBF29CE484222325
    for n in numbers:
        h = ((h ^ n) * 0x100000001B3) & MASK
    return h


class Generator:
    def __init__(self, fragments):
        self.fragments = fragments

    def _next(self):  # SplitMix64 (Steele, Lea, Flood 2014)
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def _below(self, n):
        return self._next() % n

    def _from_ranges(self):
        low, high = RANGES[self._below(len(RANGES))]
        return low + self._below(high - low + 1)

    def text(self, index):
        self.state = index * 0x2545F4914F6CDD1D & MASK
        out = []
        for _ in range(1 + self._below(24)):
            kind = self._below(16)
            if kind < 7:
                out.append(self.fragments[self._below(len(self.fragments))])
                if self._below(2):
                    out.append(" ")
            elif kind == 7:  # lower-case letters
                out.append("".join(chr(0x61 + self._below(26)) for _ in range(1 + self._below(12))))
            elif kind == 8:
                out.append("".join(chr(0x30 + self._below(10)) for _ in range(1 + self._below(9))))
            elif kind == 9:
                out.append("".join(chr(SPACES[self._below(len(SPACES))]) for _ in range(1 + self._below(5))))
            elif kind == 10:
                out.append("".join(PUNCTUATION[self._below(len(PUNCTUATION))] for _ in range(1 + self._below(6))))
            elif kind == 11:  # one script after the other
                out.append("".join(chr(self._from_ranges()) for _ in range(1 + self._below(8))))
            elif kind == 12:  # one script
                low, high = RANGES[self._below(len(RANGES))]
                out.append("".join(chr(low + self._below(high - low + 1)) for _ in range(1 + self._below(12))))
            elif kind == 13:  # control characters, but for those that SmolLM2's vocabulary has no token for
                c = self._below(32) if self._below(2) else 0x7F + self._below(33)
                out.append("" if c in (0x04, 0x06, 0x13, 0x14, 0x16, 0x1D) else chr(c))
            elif kind == 14:  # printable ASCII
                out.append("".join(chr(0x20 + self._below(95)) for _ in range(1 + self._below(20))))
            else:  # one character many times
                c = chr(self._from_ranges()) if self._below(2) else chr(0x20 + self._below(95))
                out.append(c * (1 + self._below(70)))
        return "".join(out)
