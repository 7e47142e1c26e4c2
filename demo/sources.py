"""Fetch the four source texts from Debian packages and turn them into clean documents.

Every text is public domain (see README.md). `documents(work)` returns a list of dicts
{source, title, text, held_out}; the held-out part is a fixed function of the title.
"""
import gzip
import hashlib
import os
import re
import shutil
import struct
import subprocess
import zlib

PACKAGES = ["bible-kjv", "bible-kjv-text", "r-cran-janeaustenr", "dict-devil", "dict-jargon"]

BOOKS = """Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|1 Samuel|2 Samuel|1 Kings|2 Kings|
1 Chronicles|2 Chronicles|Ezra|Nehemiah|Esther|Job|Psalms|Proverbs|Ecclesiastes|Song of Solomon|Isaiah|Jeremiah|
Lamentations|Ezekiel|Daniel|Hosea|Joel|Amos|Obadiah|Jonah|Micah|Nahum|Habakkuk|Zephaniah|Haggai|Zechariah|Malachi|
Matthew|Mark|Luke|John|Acts|Romans|1 Corinthians|2 Corinthians|Galatians|Ephesians|Philippians|Colossians|
1 Thessalonians|2 Thessalonians|1 Timothy|2 Timothy|Titus|Philemon|Hebrews|James|1 Peter|2 Peter|1 John|2 John|
3 John|Jude|Revelation""".replace("\n", "").split("|")

NOVELS = {"emma": "Emma", "mansfieldpark": "Mansfield Park", "northangerabbey": "Northanger Abbey",
          "persuasion": "Persuasion", "prideprejudice": "Pride and Prejudice",
          "sensesensibility": "Sense and Sensibility"}

# Entries of the Jargon File whose wording is not fit for a demo are left out.
COARSE = re.compile(r"fuck|shit|cunt|cock|dick|bitch|whore|nigg|sex|penis|orgas|masturb|piss|\bass\b|crap|rape|porn", re.I)


def fetch(work):
    """Download and unpack the packages (needs apt-get and dpkg); returns the unpacked root."""
    root = os.path.join(work, "packages", "root")
    if os.path.isdir(root):
        return root
    where = os.path.dirname(root)
    os.makedirs(where, exist_ok=True)
    subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=where, check=True)
    part = root + ".part"
    shutil.rmtree(part, ignore_errors=True)
    for deb in sorted(os.listdir(where)):
        if deb.endswith(".deb"):
            subprocess.run(["dpkg", "-x", deb, part], cwd=where, check=True)
    os.rename(part, root)
    return root


def held_out(title):
    """About one document in forty is kept for evaluation; the choice depends on the title only."""
    return int(hashlib.sha256(("jetblock-demo:" + title).encode()).hexdigest()[:8], 16) % 40 == 0


def doc(source, title, text, **more):
    return {"source": source, "title": title, "text": text, "held_out": held_out(title), **more}


def kjv(root):
    """The retrieval program of the package prints every verse as `Ge1:1 text`; chapters become documents."""
    out = subprocess.run([os.path.join(root, "usr/bin/bible"), "-f"], input="gen1:1-rev22:21\nq\n", text=True,
                         capture_output=True, check=True, cwd=os.path.join(root, "usr/lib")).stdout
    chapters, last, book = {}, None, -1
    seen_start = False
    for line in out.splitlines():
        m = re.match(r"(?:bible\(KJV\) \[.*?\]> )?([1-3]?[A-Za-z]+?)(\d+):(\d+) (.*)", line)
        if not m or line.startswith("bible("):
            continue
        abbr, ch, vs, text = m.group(1), int(m.group(2)), int(m.group(3)), m.group(4).strip()
        if not seen_start:                 # the greeting shows Genesis 1:1 once before the listing
            seen_start = True
            continue
        if abbr != last and not (ch, vs) != (1, 1):
            book += 1
        last = abbr
        chapters.setdefault((book, ch), []).append((vs, text))
    assert book == 65 and sum(map(len, chapters.values())) == 31102, (book, sum(map(len, chapters.values())))
    docs = []
    for (b, ch), verses in chapters.items():
        title = f"{BOOKS[b]} {ch}"
        body = " ".join(t for _, t in verses)
        docs.append(doc("kjv", title, f"{title}\n\n{body}\n", verses=[[f"{title}:{v}", t] for v, t in verses]))
    return docs


def r_strings(blob):
    """Character vector from R's binary serialisation (format X)."""
    (mark,) = struct.unpack(">i", blob[2:6])
    at = 14
    if mark == 3:
        (n,) = struct.unpack(">i", blob[at:at + 4])
        at += 4 + n
    flags, n = struct.unpack(">ii", blob[at:at + 8])
    assert flags & 255 == 16, "not a character vector"
    at, out = at + 8, []
    for _ in range(n):
        _, size = struct.unpack(">ii", blob[at:at + 8])
        at += 8
        out.append(blob[at:at + max(size, 0)].decode("utf-8", "replace"))
        at += max(size, 0)
    return out


def austen(root):
    where = os.path.join(root, "usr/lib/R/site-library/janeaustenr/data")
    index = gzip.decompress(open(os.path.join(where, "Rdata.rdx"), "rb").read())
    data = open(os.path.join(where, "Rdata.rdb"), "rb").read()
    # Pairs (offset, length) are integer vectors of length 2; the first six belong to the novels, in name order.
    spans = [struct.unpack(">ii", index[m.end():m.end() + 8])
             for m in re.finditer(rb"\x00\x00\x00\x0d\x00\x00\x00\x02", index)]
    docs = []
    for key, (at, size) in zip(sorted(NOVELS), spans):
        lines = r_strings(zlib.decompress(data[at + 4:at + size]))
        title = NOVELS[key]
        chapters, now, part = [], [], 0
        for line in lines:
            if re.match(r"^(CHAPTER|Chapter)\s+[IVXLC\d]+\.?\s*$", line.strip()):
                chapters.append(now)
                now = []
            elif not re.match(r"^\s*(VOLUME|Volume|BOOK)\s+[IVX]+\s*$", line):
                now.append(line)
        chapters.append(now)
        for part, body in enumerate(chapters[1:], 1):
            paragraphs = [re.sub(r"\s+", " ", " ".join(p.split("\n"))).strip()
                          for p in re.split(r"\n\s*\n", "\n".join(body))]
            text = "\n\n".join(p.replace("_", "").replace("--", "—") for p in paragraphs
                               if p and not re.match(r"^(THE END|Finis|FINIS)", p))
            name = f"{title}, chapter {part}"
            docs.append(doc("austen", name, text + "\n", novel=title))
    return docs


def dict_entries(root, name):
    """(headword, body) pairs of a dictd database, through its index file."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

    def number(s):
        n = 0
        for c in s:
            n = n * 64 + digits.index(c)
        return n

    where = os.path.join(root, "usr/share/dictd")
    data = gzip.decompress(open(os.path.join(where, name + ".dict.dz"), "rb").read())
    seen = set()
    for line in open(os.path.join(where, name + ".index"), encoding="utf-8"):
        word, at, size = line.rstrip("\n").split("\t")[:3]
        if word.startswith("00") or at in seen:
            continue
        seen.add(at)
        yield word, data[number(at):number(at) + number(size)].decode("utf-8", "replace")


def paragraphs_of(body):
    out = []
    for p in re.split(r"\n\s*\n", body.strip("\n")):
        lines = p.split("\n")
        verse = len(lines) > 1 and all(l.startswith("    ") for l in lines if l.strip())
        out.append((verse, p))
    return out


def devil(root):
    docs = []
    for _, body in dict_entries(root, "devil"):
        m = re.match(r"\s*([A-Z][A-Z'’ \-]+?)(?:,\s*([a-z. ]+?\.))?(?:\s{2,}|\.\s)", body)
        if not m:
            continue
        prose = []
        for verse, p in paragraphs_of(body):
            if verse:
                break                                  # illustrative poems follow the definition
            prose.append(re.sub(r"\s+", " ", p).strip())
        text = re.sub(r"\s*\[sic\]", "", "\n\n".join(prose).replace("_", ""))
        if len(text) < 40:
            continue
        head = m.group(1).strip()
        definition = re.sub(r"^[A-Z'’ \-]+, (?:[a-z]+\. ?)+\s*", "", text) if m.group(2) else ""
        docs.append(doc("devil", "devil " + head, text + "\n", word=head.lower(), definition=definition))
    return docs


def jargon(root):
    docs = []
    for word, body in dict_entries(root, "jargon"):
        if COARSE.search(body):
            continue
        lines = body.strip("\n").split("\n")
        head = lines[0].strip()
        prose = "\n".join(l.strip() for l in lines[1:])
        paras = [re.sub(r"\s+", " ", p).strip() for p in re.split(r"\n\s*\n", prose)]
        paras = [re.sub(r"\{([^}]*)\}", r"\1", p) for p in paras if p and not p.startswith("/")]
        paras = [p for p in paras if re.search(r"[a-z]{3}", p) and len(p) > 12]
        if not paras:
            continue
        paras = [re.sub(r"^(\[[^\]]*\]\s*)+", "", p) for p in paras]
        paras = [p for p in paras if len(p) > 12]
        if not paras:
            continue
        text = head + "\n\n" + "\n\n".join(paras) + "\n"
        if 60 < len(text) < 3500:
            docs.append(doc("jargon", "jargon " + head, text, word=head, definition=re.sub(r"^1\. (\[[^\]]*\] )?", "", paras[0])))
    return docs


def documents(work):
    root = fetch(work)
    docs = kjv(root) + austen(root) + devil(root) + jargon(root)
    table = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "™": "(TM)"})
    for d in docs:
        for k in ("text", "definition", "word"):
            if k in d:
                d[k] = d[k].translate(table)
    return docs
