#!/usr/bin/env python3
"""Extract the training corpus of the demo model from the Rust documentation.

Reads the HTML documentation that `rustup component add rust-docs` installs
(`$(rustc --print sysroot)/share/doc/rust/html`) and writes plain text in a
light Markdown form: headings, one line per paragraph, lists, fenced code.

    python3 models/demo/corpus.py --out DIR

writes DIR/train.jsonl, DIR/val.jsonl, DIR/heldout.jsonl (one document a line,
{"path", "text"}), DIR/heldout.txt (the held-out documents joined by a blank
line) and DIR/stats.json. Python standard library only; the same toolchain
gives the same files.

Only texts under Apache-2.0 OR MIT are read. The Embedded Rust Book is left
out because its prose is (also) described as CC-BY-SA; so are translations,
redirect stubs, old editions of the book and the SIMD intrinsics.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

# Books made by mdBook. Order matters: of two equal paragraphs the first stays.
BOOKS = ["book", "nomicon", "reference", "rust-by-example", "edition-guide",
         "style-guide", "cargo", "rustc", "rustdoc", "clippy", "error_codes",
         "unstable-book"]
SKIP_DIRS = {"first-edition", "second-edition", "2018-edition", "es", "ja", "ko", "zh"}
SKIP_PAGES = {"print.html", "toc.html", "SUMMARY.html", "404.html", "README.html"}
# Standard library pages made by rustdoc (`alloc` and `core` are re-exported by `std`).
CRATES = ["std", "proc_macro", "test"]
# Of the families of types whose pages repeat each other, the ones read first.
FIRST = ["primitive.str", "primitive.slice", "primitive.i32", "primitive.u32",
         "primitive.f64", "primitive.usize", "struct.Vec", "struct.String"]

# Bytes of whole pages set aside, by source: for reporting only / for choosing the checkpoint.
HELDOUT = {"book": 22000, "nomicon": 9000, "reference": 15000, "rust-by-example": 6000,
           "edition-guide": 4000, "style-guide": 3000, "cargo": 14000, "rustc": 10000,
           "rustdoc": 4000, "clippy": 2500, "error_codes": 6000, "unstable-book": 4000,
           "std": 24000}
VAL = {k: v for k, v in HELDOUT.items()}

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta",
        "source", "track", "wbr", "path", "rect", "circle"}
SKIP_TAGS = {"script", "style", "nav", "svg", "button", "rustdoc-toolbar",
             "table", "select", "textarea", "form", "noscript", "template"}
SKIP_CLASSES = {"hideme", "sub-heading", "item-decl", "item-table", "test-arrow", "src",
                "since", "rightside", "stab", "item-info", "doc-anchor", "anchor", "boring",
                "buttons", "rule", "rule-link", "grammar-container", "grammar-railroad",
                "footnote-reference", "portability", "notable-traits", "tooltip",
                "code-attribute", "where", "rustdoc-breadcrumbs", "docblock-short",
                "nav-wrapper", "mobile-nav-chapters", "sidetoc", "pagetoc", "fr",
                "out-of-band", "type-decl", "impl-items-toggle"}
SKIP_IDS = ("trait-implementations", "synthetic-implementations", "blanket-implementations",
            "deref-methods", "implementors", "foreign-impls", "synthetic-implementors",
            "aliased-type", "layout")
HEAD = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}

TYPO = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
                      "\u2026": "...", "\u00a0": " ", "\u200b": None, "\u00ad": None,
                      "\u2011": "-", "\ufeff": None})


class Page(HTMLParser):
    """Turns the part of a page inside `<main>` into a list of blocks (kind, text)."""

    def __init__(self, rustdoc):
        super().__init__(convert_charrefs=True)
        self.rustdoc = rustdoc
        self.stack = []          # (tag, is_skip, is_docblock)
        self.main = 0
        self.skip = 0
        self.doc = 0
        self.blocks = []
        self.buf = []
        self.kind = None         # heading level as int, "p", "li"
        self.pre = 0
        self.lang = ""
        self.lists = []          # ["ul", n] or ["ol", n]
        self.bullet = None
        self.code = 0
        self.quote = 0

    # -- blocks
    def flush(self):
        text = "".join(self.buf)
        self.buf = []
        if self.kind is None and not text.strip():
            return
        text = re.sub(r"\s+", " ", text.translate(TYPO)).strip()
        text = text.replace("``", "")
        if not text:
            return
        if isinstance(self.kind, int):
            self.blocks.append(("h", "#" * self.kind + " " + text))
        elif self.bullet is not None:
            depth, mark = self.bullet
            self.bullet = (depth, None)
            pad = "  " * depth
            self.blocks.append(("li", pad + (mark + " " if mark else "  ") + text))
        else:
            self.blocks.append(("p", text))
        self.kind = None

    def open_bullet(self):
        if not self.lists:
            return
        name, n = self.lists[-1]
        self.lists[-1][1] += 1
        mark = "-" if name == "ul" else f"{n + 1}."
        self.bullet = (len(self.lists) - 1, mark)

    # -- parser events
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "main":
            self.main += 1
        if tag in VOID:
            if self.active() and tag in ("br", "wbr") and tag == "br":
                self.buf.append("\n" if self.pre else " ")
            return
        cls = set((attrs.get("class") or "").split())
        ident = attrs.get("id") or ""
        skip = (tag in SKIP_TAGS or bool(cls & SKIP_CLASSES)
                or (self.rustdoc and ident.startswith(SKIP_IDS)))
        if tag == "a" and self.rustdoc and "section-header" in cls:
            skip = True
        isdoc = "docblock" in cls or tag == "h1" or "code-header" in cls
        self.stack.append((tag, skip, isdoc))
        if skip:
            self.skip += 1
            return
        if isdoc:
            self.doc += 1
        if not self.active():
            return
        if tag in HEAD:
            self.flush()
            level = HEAD[tag]
            if self.rustdoc and "code-header" in cls:
                self.flush()
                self.kind = 2
                self.buf.append("`")
            else:
                self.kind = min(level, 3) if not self.rustdoc else (1 if level == 1 else min(level, 3))
        elif tag == "pre":
            self.flush()
            self.pre += 1
            self.lang = ""
            self.prelang(cls)
        elif tag == "code":
            if self.pre:
                self.prelang(cls)
            else:
                self.code += 1
                if not isinstance(self.kind, int) or "`" not in self.buf[:1]:
                    self.buf.append("`")
        elif tag in ("ul", "ol"):
            self.flush()
            self.lists.append([tag, int(attrs.get("start") or 1) - 1 if tag == "ol" else 0])
        elif tag == "li":
            self.flush()
            self.open_bullet()
        elif tag in ("p", "div", "dt", "dd", "blockquote", "section", "details", "summary"):
            if not (tag in ("div", "section") and isinstance(self.kind, int)):
                self.flush()

    def prelang(self, cls):
        for c in sorted(cls):
            if c in ("rust", "language-rust", "playground"):
                self.lang = "rust"
            elif c.startswith("language-") and not self.lang:
                self.lang = c[9:].split(",")[0]

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        while self.stack:
            top, skip, isdoc = self.stack[-1]
            if top != tag and not any(t == tag for t, _, _ in self.stack):
                return
            if not self.skip and self.active():
                self.close(top)
            self.stack.pop()
            if skip:
                self.skip -= 1
            elif isdoc:
                self.doc = max(0, self.doc - 1)
            if top == "main":
                self.main = max(0, self.main - 1)
            if top == tag:
                return

    def close(self, tag):
        if tag in HEAD:
            if self.rustdoc and self.buf[:1] == ["`"]:
                self.buf.append("`")
            self.flush()
            self.kind = None
        elif tag == "pre":
            text = "".join(self.buf)
            self.buf = []
            self.pre = max(0, self.pre - 1)
            lines = [l.rstrip() for l in text.translate(TYPO).replace("\t", "    ").split("\n")]
            while lines and not lines[0]:
                lines.pop(0)
            while lines and not lines[-1]:
                lines.pop()
            if lines:
                lang = self.lang if re.fullmatch(r"[a-z]{1,10}", self.lang or "") else ""
                self.blocks.append(("code", "```%s\n%s\n```" % (lang, "\n".join(lines))))
            self.kind = None
        elif tag == "code":
            if not self.pre:
                self.code = max(0, self.code - 1)
                if not isinstance(self.kind, int) or self.buf[:1] != ["`"]:
                    self.buf.append("`")
                elif "".join(self.buf).count("`") % 2:
                    self.buf.append("`")
        elif tag in ("ul", "ol"):
            self.flush()
            if self.lists:
                self.lists.pop()
            self.bullet = None
        elif tag == "li":
            self.flush()
            self.bullet = None
        elif tag in ("p", "dt", "dd", "blockquote", "div", "section"):
            if not isinstance(self.kind, int):
                self.flush()

    def handle_data(self, data):
        if self.active():
            self.buf.append(data)

    def active(self):
        return self.main > 0 and self.skip == 0 and (not self.rustdoc or self.doc > 0)


def parse(path, rustdoc):
    html = path.read_text(encoding="utf-8", errors="replace")
    if 'http-equiv="refresh"' in html[:3000]:
        return []
    at = html.find("<main")
    if at < 0:
        return []
    if rustdoc:
        # Cut at the first list of trait implementations: nothing after it is prose of this item.
        for mark in ('<h2 id="trait-implementations"', '<h2 id="synthetic-implementations"',
                     '<h2 id="blanket-implementations"', '<h2 id="foreign-impls"',
                     '<h2 id="implementors"', '<h2 id="deref-methods'):
            cut = html.find(mark, at)
            if cut > 0:
                html = html[:cut]
    page = Page(rustdoc)
    page.feed(html[at:])
    page.flush()
    return page.blocks


def clean(blocks):
    """Drops boilerplate and fixes small things the markup leaves."""
    out = []
    for kind, text in blocks:
        if kind == "h":
            text = re.sub(r"\s*Copy item path\s*$", "", text)
            if re.search(r"`(unsafe )?(impl|auto impl)\b", text):
                text = ""
        if kind in ("p", "li"):
            text = text.replace(" ,", ",").replace(" .", ".") if "`" not in text else text
            if re.match(r"(Available on|This is a nightly-only|🔬)", text):
                text = ""
            if re.fullmatch(r"\W*", text):
                text = ""
            if re.match(r"\[?\d+\]?:? ?https?://\S+$", text):
                text = ""
        if kind == "code" and len(text) > 6000:
            text = ""
        if text:
            out.append((kind, text))
    return out


WORD = re.compile(r"[a-z_]+|[^\sa-z_]")


def norm(text):
    t = text.lower()
    t = re.sub(r"\b(?:[iuf](?:8|16|32|64|128)|[iu]size)\b", "int", t)
    t = re.sub(r"\d+", "0", t)
    return re.sub(r"\s+", " ", t).strip()


def h64(s):
    return int.from_bytes(hashlib.blake2b(s.encode("utf-8"), digest_size=8).digest(), "little")


def shingles(text, width=50):
    t = norm(text)
    if len(t) <= width:
        return {h64(t)}
    # Anchored at word starts, so that equal passages give equal shingles wherever they begin.
    starts = [0] + [m.start() + 1 for m in re.finditer(" ", t)]
    return {h64(t[s:s + width]) for s in starts if s + width <= len(t)} or {h64(t[:width])}


class Seen:
    def __init__(self):
        self.exact = set()
        self.shing = set()

    def duplicate(self, kind, text, limit):
        if kind == "h":
            return False
        key = norm(text)
        if len(key) < 24:
            return False
        if h64(key) in self.exact:
            return True
        if len(key) > 50:
            sh = shingles(text)
            if sum(s in self.shing for s in sh) > limit * len(sh):
                return True
        return False

    def add(self, kind, text):
        if kind == "h":
            return
        self.exact.add(h64(norm(text)))
        self.shing |= shingles(text)


def prune(blocks):
    """Drops headings with nothing under them."""
    out = []
    for i, (kind, text) in enumerate(blocks):
        if kind == "h":
            level = len(text) - len(text.lstrip("#"))
            nxt = blocks[i + 1] if i + 1 < len(blocks) else None
            if nxt is None:
                continue
            if nxt[0] == "h":
                l2 = len(nxt[1]) - len(nxt[1].lstrip("#"))
                if l2 <= level:
                    continue
        out.append((kind, text))
    return out if len(out) == len(blocks) else prune(out)


def render(blocks):
    parts = []
    prev = None
    for kind, text in blocks:
        if prev is not None:
            parts.append("\n" if kind == "li" and prev == "li" else "\n\n")
        parts.append(text)
        prev = kind
    return "".join(parts)


def dedupe(docs, seen, limit):
    out = []
    for path, blocks in docs:
        fresh = []
        own = []
        for kind, text in blocks:
            if seen.duplicate(kind, text, limit):
                continue
            fresh.append((kind, text))
            # Code is entered at once (it repeats inside a page), as is prose.
            seen.add(kind, text)
        fresh = prune(fresh)
        body = sum(len(t) for k, t in fresh if k != "h")
        if body >= 60:
            out.append((path, fresh))
    return out


def choose(docs, quota, salt, taken):
    """Whole pages, in an order given by a hash of their path, until the quota is full."""
    picked = set()
    for source, want in sorted(quota.items()):
        left = want
        mine = [(p, len(render(b).encode())) for p, b in docs
                if p.split("/")[0] == source and p not in taken]
        mine.sort(key=lambda x: hashlib.sha256((salt + x[0]).encode()).hexdigest())
        for p, size in mine:
            if 600 <= size <= left + want // 10:
                picked.add(p)
                left -= size
            if left < 600:
                break
    return picked


def source_pages(root):
    for book in BOOKS:
        base = root / book
        for p in sorted(base.rglob("*.html")):
            rel = p.relative_to(base)
            if set(rel.parts[:-1]) & SKIP_DIRS or rel.name in SKIP_PAGES:
                continue
            if book == "rustc" and rel.parts[0] == "tests":
                continue
            yield f"{book}/{rel.as_posix()}", p, False
    for crate in CRATES:
        base = root / crate
        pages = []
        for p in base.rglob("*.html"):
            rel = p.relative_to(base).as_posix()
            if rel.startswith(("arch/", "all.html", "simd/")) or "/arch/" in rel:
                continue
            name = rel.rsplit("/", 1)[-1]
            rank = next((i for i, f in enumerate(FIRST) if name.startswith(f + ".")), len(FIRST))
            pages.append((rank, rel, p))
        for _, rel, p in sorted(pages, key=lambda x: x[:2]):
            yield f"{crate}/{rel}", p, True


def release_notes(root):
    """The release notes: one document per version, link targets removed."""
    p = root / "releases.md"
    if not p.exists():
        return
    text = p.read_text(encoding="utf-8")
    for i, part in enumerate(re.split(r"(?m)^(?=Version \d)", text)[1:]):
        blocks = []
        part = re.sub(r"<a id=[^>]*></a>", "", part)
        part = re.sub(r"(?m)^\[[^\]]+\]:.*(?:\n[ \t]+http\S*)?$", "", part)
        for para in re.split(r"\n\s*\n", part):
            lines = [l.rstrip() for l in para.strip("\n").split("\n")]
            if len(lines) >= 2 and re.fullmatch(r"[=-]{3,}", lines[1].strip()):
                level = 1 if lines[1].strip()[0] == "=" else 2
                blocks.append(("h", "#" * level + " " + lines[0].strip()))
                lines = lines[2:]
            items = []
            for l in lines:
                m = re.match(r"(\s*)([-*]) +(.*)", l)
                if m:
                    depth = min(len(m.group(1)) // 2, 2)
                    items.append(["li", "  " * depth + "- " + m.group(3)])
                elif items:
                    items[-1][1] += " " + l.strip()
                elif l.strip():
                    items.append(["p", l.strip()])
            for kind, t in items:
                t = re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)", r"\1", t)
                t = re.sub(r"\[((?:`[^`]*`|[^\[\]])*)\]\s?\[[^\]]*\]", r"\1", t)
                t = re.sub(r"\[(`[^`]*`)\]", r"\1", t)
                t = re.sub(r"(?<=\w)\*\*|\*\*(?=\w)", "", t)
                t = re.sub(r"\[(RFC[^\[\]]*|\"[^\[\]]*\")\]", r"\1", t)
                t = re.sub(r"[ \t]+", " ", t.strip()) if kind == "p" else re.sub(r"(?<=\S)[ \t]+", " ", t.rstrip())
                t = re.sub(r"\s*\(?#\d+\)?", "", t)
                if len(t) > 12 and "http" not in t:
                    blocks.append((kind, t.translate(TYPO)))
        yield f"releases/{i:03d}", blocks


COMMENT = re.compile(r"^\s*//(?!/|!)\s?(.*)$")


def source_comments(root):
    """Prose in the plain `//` comments of the standard library's source (not the doc comments)."""
    import html as H
    for crate in ["alloc", "core", "std", "proc_macro", "std_detect", "test"]:
        base = root / "src" / crate
        for p in sorted(base.rglob("*.html")):
            rel = p.relative_to(root / "src").as_posix()
            if "core_arch" in rel or "core_simd" in rel or "/tests" in rel:
                continue
            s = p.read_text(encoding="utf-8", errors="replace")
            a, b = s.find('<pre class="rust"'), s.rfind("</pre>")
            s = s[a:b]
            s = re.sub(r"<a href=#\d+ id=\d+ data-nosnippet>\d+</a>", "", s)
            s = H.unescape(re.sub(r"<[^>]+>", "", s))
            blocks, group = [], []

            def end():
                paras, cur = [], []
                for l in group + [""]:
                    if l.strip():
                        cur.append(l)
                    elif cur:
                        paras.append(cur)
                        cur = []
                for cur in paras:
                    if any(l.startswith("   ") or l.startswith("```") or "|" in l for l in cur):
                        continue
                    t = re.sub(r"\s+", " ", " ".join(cur)).strip().translate(TYPO)
                    words = re.findall(r"[A-Za-z']{2,}", t)
                    letters = sum(c.isalpha() or c == " " for c in t)
                    if (len(t) >= 90 and len(words) >= 14 and letters > 0.84 * len(t)
                            and t[0].isupper() and t[-1] in ".:!?)" and "http" not in t
                            and not re.match(r"(Copyright|Licensed|SPDX|TODO|FIXME|HACK)", t)):
                        blocks.append(("p", t))
                group.clear()

            for line in s.split("\n"):
                m = COMMENT.match(line)
                if m:
                    group.append(m.group(1))
                elif group:
                    end()
            if group:
                end()
            if blocks:
                yield "comments/" + rel, blocks


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--docs", type=Path, help="the html folder (default: that of `rustc`'s sysroot)")
    args = ap.parse_args()
    root = args.docs
    if root is None:
        sysroot = subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip()
        root = Path(sysroot) / "share/doc/rust/html"
    if not (root / "book").is_dir():
        sys.exit(f"no Rust documentation at {root}; run: rustup component add rust-docs")

    docs = []
    for name, path, rustdoc in source_pages(root):
        blocks = clean(parse(path, rustdoc))
        if blocks:
            docs.append((name, blocks))
    docs += list(source_comments(root))
    docs += list(release_notes(root))

    # First pass: duplicates inside the whole collection, so that the quotas see real sizes.
    docs = dedupe(docs, Seen(), 0.6)
    held = choose(docs, HELDOUT, "heldout:", set())
    val = choose(docs, VAL, "val:", held)
    train_docs = [d for d in docs if d[0] not in held and d[0] not in val]
    # Second pass: nothing in val or held-out may be (nearly) in what came before it.
    seen = Seen()
    train = dedupe(train_docs, seen, 0.6)
    valset = dedupe([d for d in docs if d[0] in val], seen, 0.3)
    heldset = dedupe([d for d in docs if d[0] in held], seen, 0.3)

    args.out.mkdir(parents=True, exist_ok=True)
    stats = {}
    for name, ds in (("train", train), ("val", valset), ("heldout", heldset)):
        by = {}
        with open(args.out / f"{name}.jsonl", "w", encoding="utf-8") as f:
            for p, b in ds:
                t = render(b)
                f.write(json.dumps({"path": p, "text": t}, ensure_ascii=False) + "\n")
                s = p.split("/")[0]
                by[s] = by.get(s, 0) + len(t.encode())
        prose = sum(len(t) for _, b in ds for k, t in b if k != "code")
        total = sum(len(t) for _, b in ds for k, t in b)
        stats[name] = {"documents": len(ds), "bytes": sum(by.values()),
                       "prose_share": round(prose / max(total, 1), 3), "by_source": by}
    (args.out / "heldout.txt").write_text(
        "\n\n".join(render(b) for _, b in heldset) + "\n", encoding="utf-8")
    (args.out / "stats.json").write_text(json.dumps(stats, indent=1) + "\n")
    print(json.dumps(stats, indent=1))


if __name__ == "__main__":
    main()
