"""python -m tests.second_implementation"""

import sys
from pathlib import Path

from . import generation, goldens, models, receipt, selfcheck
from .report import Report


def main():
    root = Path(__file__).resolve().parents[2]
    report = Report()
    selfcheck.run(report)
    goldens.run(report, root)
    models.run(report, root)
    if binary := models.find_binary(root):
        generation.run(report, root, binary)
        receipt.run(report, root, binary)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
