#!/usr/bin/env python3
"""Helps to build and check the site of the documentation.

    ci/site.py outside             preprocessor of mdBook: links that leave docs/ lead to the repository
    ci/site.py check DOCS SITE     each page is in the summary and can be searched; each named test exists

It must never change a file.
"""
import json
import pathlib
import posixpath
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/pubsub-relay/pubsub-relay/blob/main"
LINK = re.compile(r"(\]\(|^\[[^\]]+\]:\s+)([^)\s#]+)", re.M)
FENCE = re.compile(r"(^ *```.*?^ *```[ ]*$)", re.M | re.S)
# Pages whose tables name a test for each claim.
CLAIMS = ("COMPARED.md", "SECURITY-MODEL.md")
# A link to a test by its name.
TEST = re.compile(r"\[(\w+)\]\(\.\./(tests/[\w/.-]+\.rs)\)")


def lead_outside(text, page):
    """Returns the Markdown with absolute links to files outside of docs/."""

    def absolute(found):
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), found[2]))
        inside = path.startswith("docs/") or re.match(r"[a-z]+:", found[2])
        return found[0] if inside else f"{found[1]}{REPOSITORY}/{path}"

    parts = FENCE.split(text)
    return "".join(part if n % 2 else LINK.sub(absolute, part) for n, part in enumerate(parts))


def outside():
    if sys.argv[2:3] == ["supports"]:
        return
    _, book = json.load(sys.stdin)

    def walk(items):
        for item in items:
            chapter = item.get("Chapter") if isinstance(item, dict) else None
            if chapter:
                chapter["content"] = lead_outside(chapter["content"], chapter["path"] or "")
                walk(chapter["sub_items"])

    walk(book.get("items") or book.get("sections") or [])
    json.dump(book, sys.stdout)


def check(docs, site):
    faults = []
    summary = (docs / "SUMMARY.md").read_text()
    linked = set(re.findall(r"\]\(([^)]+\.md)\)", summary))
    pages = {str(path.relative_to(docs)) for path in docs.rglob("*.md")} - {"SUMMARY.md"}
    faults += [f"{page} is not in docs/SUMMARY.md" for page in sorted(pages - linked)]
    # Each page is in the index of the search, with the address that mdBook gave it.
    index = "".join(path.read_text() for path in site.glob("searchindex*.js"))
    for page in sorted(pages & linked):
        address = re.sub(r"README\.md$", "index.md", page).replace(".md", ".html")
        if not (site / address).is_file():
            faults.append(f"{page} has no page {address}")
        elif f"{address}#" not in index:
            faults.append(f"{page} cannot be searched")
    for page in CLAIMS:
        table = re.search(r"^\| (?:claim|rule) \| test \|\n\|.*\n((?:\|.*\n)+)", (docs / page).read_text(), re.M)
        rows = table[1].splitlines() if table else ["there is no table of claims"]
        faults += [f"{page}: a claim without a test: {row}" for row in rows if not TEST.search(row)]
    # Outside of the table, what the comparison says of this project.
    compared = re.split(r"^## When not", (docs / CLAIMS[0]).read_text(), maxsplit=1, flags=re.M)[-1]
    for paragraph in re.split(r"\n\n|\n(?=- )", compared):
        if "pubsub-relay" in paragraph and not TEST.search(paragraph):
            faults.append(f"{CLAIMS[0]}: a claim without a test: {paragraph[:60]}")
    for page in sorted(pages):
        for name, path in TEST.findall((docs / page).read_text()):
            if not (ROOT / path).is_file() or not re.search(rf"\bfn {name}\b", (ROOT / path).read_text()):
                faults.append(f"{page}: no test {name} in {path}")
    for fault in faults:
        print(f"ERROR {fault}")
    print(f"site: {len(pages)} pages, {len(faults)} faults")
    sys.exit(bool(faults))


if sys.argv[1] == "outside":
    outside()
else:
    check(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
