"""The table of what was compared."""

import time


class Report:
    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.started = time.monotonic()
        self.group = None

    def section(self, title):
        self.group = title
        print(f"\n{title}", flush=True)

    def add(self, name, good, detail=""):
        if good:
            self.passed += 1
        else:
            self.failed += 1
        print(f"  {'same' if good else 'DIFFERENT':<10} {name:<58} {detail}".rstrip(), flush=True)

    def missing(self, name, why):
        """Something that must be there is not: a failure."""
        self.failed += 1
        print(f"  {'MISSING':<10} {name:<58} {why}", flush=True)

    def finish(self):
        print(f"\n{time.monotonic() - self.started:.0f} s")
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0
