"""Files per second and peak memory of reading a tree like WIPO-Alpha's, and of reading its cache.

    python tests/benchmarks/wipo_tree.py --files 20000

The generated files have the collection's schema and size: a description of 5,000 to 6,000 words,
claims, abstract and title in random words, half of the files in ISO 8859-1; some 50 KB each.
"""

import argparse
import random
import tempfile
import threading
import time
from pathlib import Path

import psutil

from lib import storage
from lib.data.wipo.read import read_wipo_alpha

DOCUMENT = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE record SYSTEM "../../../../../ipctraining.dtd">
<record cy="WO" an="EP{number:07}" pn="WO{number:07}" dnum="{number:07}" kind="A1">
<ipcs ed="6" mc="{main}"><ipc ic="{secondary}"></ipc></ipcs>
<pas><pa>{title} Gesellschaft für Geräte</pa></pas>
<tis><ti xml:lang="EN">{title}</ti></tis>
<abs><ab xml:lang="EN">{abstract}</ab></abs>
<cls><cl xml:lang="EN">{claims}</cl></cls>
<txts><txt xml:lang="EN">{description}</txt></txts>
</record>
"""


def write_tree(root, num_files):
    """Returns the bytes written."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 12))) for _ in range(20_000)]
    words += ["Größe", "façade", "naïve", "a &amp; b"] * 20

    def text(num_words):
        return "\n".join(" ".join(rng.choices(words, k=12)) for _ in range(num_words // 12))

    def code():
        subclass = f"{rng.choice('ABCDEFGH')}{rng.randint(1, 15):02}{rng.choice('BCDFGHK')}"
        return f"{subclass}{rng.randint(1, 99):03}{rng.randint(0, 99):02}"

    total = 0
    for number in range(num_files):
        main, encoding = code(), ("iso-8859-1", "utf-8")[number % 2]
        claims = " ".join(f"{i}. A {text(72)}." for i in range(1, rng.randint(8, 20)))
        content = DOCUMENT.format(
            encoding=encoding, number=number, main=main, secondary=code(), title=text(12),
            abstract=text(120), claims=claims, description=text(rng.randint(5000, 6000)),
        ).encode(encoding)  # fmt: skip
        split = "train" if number % 8 < 5 else "test"
        folder = root / split / main[0] / main[1:3] / main[3] / main[4:7]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:07}.xml").write_bytes(content)
        total += len(content)
    return total


def resident_bytes():
    """Of this process and its children; pages that they share are counted for each."""
    process, total = psutil.Process(), 0
    for part in [process, *process.children(recursive=True)]:
        try:
            total += part.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


class PeakMemory(threading.Thread):
    """Samples `resident_bytes` ten times a second until `stop`."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.done = 0, threading.Event()

    def run(self):
        while not self.done.is_set():
            self.peak = max(self.peak, resident_bytes())
            self.done.wait(0.1)

    def stop(self):
        self.done.set()
        self.join()
        return self.peak / 2**30


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, storage.CACHE = Path(folder, "wipo-alpha"), Path(folder, "cache")
        size = write_tree(root, arguments.files)
        print(f"{arguments.files} files, {size / arguments.files / 1000:.1f} KB on average")
        print(f"before: {resident_bytes() / 2**30:.2f} GiB")
        for name in ("parsed", "cached"):
            memory, start = PeakMemory(), time.perf_counter()
            memory.start()
            splits = read_wipo_alpha(root, level="subclass")
            seconds = time.perf_counter() - start
            print(
                f"{name}: {seconds:.1f} s, {arguments.files / seconds:.0f} files/s, "
                f"peak {memory.stop():.2f} GiB with children, "
                f"{splits.num_rows['train']} train and {splits.num_rows['test']} test documents"
            )


if __name__ == "__main__":
    main()
