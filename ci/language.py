#!/usr/bin/env python3
"""Checks the language of comments, documentation and names: ci/language.py [--count] [FOLDER]

    verbs     the doc of a Rust function opens with a verb in the third person singular
    words     no word for a person where a machine is meant; no name that the glossary has replaced
    columns   comments in Rust and prose in Markdown have at most 100 columns
    tables    a table in Markdown has at most four columns
    tests     the name of a test has at most eight words

It reads the tracked files of FOLDER, by default this repository, and prints one line for each
offence. With --count it prints numbers only and succeeds. The rules are heuristics: where one is
wrong, extend its list below with a reason. It must never change a file.
"""
import dataclasses
import pathlib
import re
import subprocess
import sys

RULES = ("verbs", "words", "columns", "tables", "tests")
COLUMNS, TABLE, NAME = 100, 4, 8

# A verb in the third person ends in "s", but not in one of these.
NO_VERB_ENDINGS = ("ss", "us", "is")
VERBS = {"Focuses"}
# Words that end in "s" and are no verbs. Other plural nouns are found by the "of" after them.
NO_VERBS = set(
    """Afterwards Always As Besides Bytes Clients Connections Cursors Events Feeds Fields Frames
    Hours Interests Its Keys Members Messages Milliseconds Minutes Nanoseconds Operations Others
    Ours Pods Results Seconds Series Settings Sockets Sometimes Templates Theirs Times Tokens
    Towards Unless Users Values Viewers Was Watchers Whereas Words Yours""".split()
)
# Verbs that stand before "of".
VERBS_OF = {"Consists", "Disposes"}

PERSONS = re.compile(r"\b(somebody|nobody|whom|whoever|strangers)\b", re.I)
# Whole names of types.
OLD_TYPES = set(
    """Fleet Census Pulse Pulses Outbox Roll Trail Trails Stranger Strangers Outlet Site Handover
    Takeover Pass Carrier Seed Hearing Line Life""".split()
)
# Words inside of a name of any kind.
OLD_WORDS = set("fleet census pulse pulses outbox outboxes trails strangers outlet handover takeover".split())
# The transactional outbox is the field's own term.
OUTBOX_FOLDER = "src/broker/postgres"
OLD_NAMES = re.compile(r"relay[_.]fleet|relay[_.]pulses?\b|RELAY_PULSE")
# Files that must name what is old: the history, and this check.
HISTORY = ("CHANGELOG.md", "docs/decisions/", "ci/language.py", "ci/selftest/language")

# Wider tables: the file, the first cell of the head, and the reason.
WIDE_TABLES = {
    ("docs/OPERATIONS.md", "step"): "one column for each place that sets the drain, which a test reads",
}

RUST = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    | (?P<string>(?<!\w)[bc]?r(?P<hashes>\#*)".*?"(?P=hashes)     # raw
        | (?<!\w)[bc]?"(?:\\.|[^"\\])*"
        | (?:(?<!\w)b)?'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])')     # a character; a lifetime has no second quote
    """,
    re.X | re.S,
)
FENCE = re.compile(r"^\s*(?:>\s*)*(?:[-*]\s+|\d+\.\s+)?(`{3,}|~{3,})(.*)$")
URL = re.compile(r"\]\([^)\s]*\)|<?https?://\S+")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
FUNCTION = re.compile(r"\bfn\s+([A-Za-z_]\w*)")
TEST = re.compile(r"#\[(?:\w+::)*test\b")


@dataclasses.dataclass
class Report:
    """Offences found so far, by rule; functions with a doc; and of the long lines, those in Rust."""

    offences: dict = dataclasses.field(default_factory=lambda: {rule: [] for rule in RULES})
    documented: int = 0
    long_comments: int = 0

    def add(self, rule, path, number, text):
        self.offences[rule].append(f"{path}:{number}: {text}")


def blank(text):
    return re.sub(r"[^\n]", " ", text)


class Rust:
    """A Rust file: its lines, and its code with comments and strings blanked out, position by
    position."""

    def __init__(self, text):
        self.lines, self.comments = text.split("\n"), []
        code, end = [], 0
        for found in RUST.finditer(text):
            code += [text[end : found.start()], blank(found[0])]
            end = found.end()
            if found["comment"]:
                self.comments.append((text.count("\n", 0, found.start()), found[0]))
        self.code = "".join(code) + text[end:]
        self.code_lines = self.code.split("\n")
        self.blank_macros()

    def blank_macros(self):
        """Blanks out the bodies of `macro_rules!`, whose functions are patterns."""
        for found in re.finditer(r"\bmacro_rules!\s*\w+\s*\{", self.code):
            depth, end = 1, found.end()
            while depth and end < len(self.code):
                depth += {"{": 1, "}": -1}.get(self.code[end], 0)
                end += 1
            self.code = self.code[: found.start()] + blank(self.code[found.start() : end]) + self.code[end:]

    def whole_line_comments(self):
        """Yields (line number from 0, line) for each line that is a comment only, without code
        examples."""
        is_fenced = False
        for number, comment in self.comments:
            for offset in range(comment.count("\n") + 1):
                line = self.lines[number + offset]
                is_whole = not self.code_lines[number + offset].strip()
                fence = re.match(r"\s*//[/!]\s*(```|~~~)", line)
                if is_whole and not is_fenced and not fence:
                    yield number + offset, line
                is_fenced ^= bool(fence)

    def functions(self):
        """Yields (line number from 0, name, lines of the doc, attributes) for each function."""
        for found in FUNCTION.finditer(self.code):
            number = self.code.count("\n", 0, found.start())
            doc, attributes, depth, above = [], self.code_lines[number].split("fn ")[0], 0, number - 1
            while above >= 0:
                line, code = self.lines[above].strip(), self.code_lines[above].strip()
                if depth or (code.endswith("]") and not code.endswith(";")):
                    depth += code.count("]") - code.count("[")
                    attributes = f"{code}\n{attributes}"
                elif line.startswith("///"):
                    doc.insert(0, line[3:].strip())
                elif not (line.startswith("//") and not line.startswith("//!")):
                    break
                above -= 1
            yield number, found[1], doc, attributes


def is_verb(doc):
    """Returns whether a doc opens with a verb in the third person singular."""
    first, second = ((doc[0] if doc else "").split() + ["", ""])[:2]
    word = first.rstrip(",.;:")
    if word in VERBS:
        return True
    if not re.fullmatch(r"[A-Z][a-z]+(?:-[a-z]+)?s", word) or word.endswith(NO_VERB_ENDINGS):
        return False
    return word not in NO_VERBS and (second != "of" or word in VERBS_OF)


def check_rust(path, text, report):
    rust = Rust(text)
    for number, name, doc, attributes in rust.functions():
        if doc:
            report.documented += 1
            if not is_verb(doc):
                first = (doc[0].split() or ["nothing"])[0]
                advice = "open with a verb: Returns, Starts, Closes"
                report.add("verbs", path, number + 1, f"{name}: its doc opens with `{first}`; {advice}")
        words = [word for word in name.split("_") if word]
        if TEST.search(attributes) and len(words) > NAME:
            advice = f"name the test in at most {NAME}, subject first"
            report.add("tests", path, number + 1, f"{name}: {len(words)} words; {advice}")
    for number, comment in rust.comments:
        check_prose(path, number, comment, report)
    for number, line in rust.whole_line_comments():
        if is_too_long(line):
            report.long_comments += 1
            report.add("columns", path, number + 1, f"{len(line)} columns; wrap the comment at {COLUMNS}")
    for number, line in enumerate(rust.code.split("\n")):
        for name in IDENTIFIER.findall(line):
            words = {word.lower() for part in name.split("_") for word in WORD.findall(part)}
            old = words & OLD_WORDS | {name} & OLD_TYPES
            if path.startswith(OUTBOX_FOLDER):
                old -= {"outbox", "outboxes", "Outbox"}
            if old:
                report.add("words", path, number + 1, f"{name}: `{min(old)}` has a new name; CHANGELOG.md lists it")


def check_prose(path, number, text, report):
    """Checks the words of a text that begins in line `number`, counted from 0."""
    for found in PERSONS.finditer(text):
        at = number + text.count("\n", 0, found.start()) + 1
        report.add("words", path, at, f"`{found[0]}` is for people; name the pod, client or task that is meant")


def is_too_long(line):
    """Returns whether a line could be wrapped: a URL alone does not count."""
    return len(line) > COLUMNS and len(URL.sub("", line)) > COLUMNS


def check_markdown(path, text, report):
    fence = None
    lines = text.split("\n")
    for number, line in enumerate(lines):
        found = FENCE.match(line)
        if found and fence is None and "`" not in found[2]:
            fence = found[1]
            continue
        if fence is not None:
            # A fence ends with as many of the same character, and nothing after them.
            if found and found[1].startswith(fence) and not found[2].strip():
                fence = None
            continue
        check_prose(path, number, re.sub(r"(`+).*?\1", "", URL.sub("", line)), report)
        row = line.strip()
        if row.startswith("|"):
            check_table(path, number, lines, report)
        elif not row.startswith(("<", "![", "[![")) and is_too_long(line):
            report.add("columns", path, number + 1, f"{len(line)} columns; wrap the prose at {COLUMNS}")


def cells(row):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]


def check_table(path, number, lines, report):
    """Checks a table at its second row, which says how many columns it has."""
    if number and re.fullmatch(r"[|\s:-]+", lines[number].strip()) and "-" in lines[number]:
        columns, first = len(cells(lines[number])), cells(lines[number - 1])[0]
        if columns > TABLE and (path, first) not in WIDE_TABLES:
            advice = f"a table has at most {TABLE}: use headings and short paragraphs"
            report.add("tables", path, number, f"{columns} columns; {advice}")


def check_hash_comments(path, text, report):
    """Checks the comments of shell, YAML, TOML, Terraform and Python, and Python's docstrings."""
    if path.endswith(".py") or text.startswith("#!/usr/bin/env python3"):
        for found in re.finditer(r'"""(.*?)"""', text, re.S):
            check_prose(path, text.count("\n", 0, found.start()), found[1], report)
    for number, line in enumerate(text.split("\n")):
        found = re.search(r"(?:^|\s)#.*", line)
        if found:
            check_prose(path, number, found[0], report)


def is_hash_commented(path, text):
    suffixes = (".sh", ".py", ".yaml", ".yml", ".toml", ".tf", ".hcl", ".example", ".env", ".cfg", "Dockerfile")
    return path.endswith(suffixes) or text.startswith("#!")


def check(folder):
    report = Report()
    listed = subprocess.run(["git", "-C", folder, "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    for path in filter(None, listed.split("\0")):
        try:
            text = (pathlib.Path(folder) / path).read_text()
        except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
            # Deleted, a link to a folder, or not text.
            continue
        if path.endswith(".rs"):
            check_rust(path, text, report)
        elif path.endswith(".md"):
            check_markdown(path, text, report)
        elif is_hash_commented(path, text) and not path.startswith(HISTORY):
            check_hash_comments(path, text, report)
        if not path.startswith(HISTORY):
            for found in OLD_NAMES.finditer(text):
                at = text.count("\n", 0, found.start()) + 1
                report.add("words", path, at, f"`{found[0]}` has a new name; CHANGELOG.md lists it")
    return report


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--count"]
    report = check(arguments[0] if arguments else pathlib.Path(__file__).resolve().parent.parent)
    numbers = {rule: len(found) for rule, found in report.offences.items()}
    if "--count" in sys.argv:
        verbs = report.documented - numbers["verbs"]
        share = 100 * verbs / max(1, report.documented)
        print(f"functions with a doc           {report.documented}")
        print(f"  that open with a verb        {verbs} ({share:.1f} %)")
        print(f"comment lines over {COLUMNS}         {report.long_comments}")
        print(f"Markdown lines over {COLUMNS}        {numbers['columns'] - report.long_comments}")
        print(f"words and names not to be used {numbers['words']}")
        print(f"tables over {TABLE} columns          {numbers['tables']}")
        print(f"test names over {NAME} words        {numbers['tests']}")
        return
    for found in report.offences.values():
        for offence in found:
            print(offence)
    print("language: " + ", ".join(f"{rule} {number}" for rule, number in numbers.items()))
    sys.exit(any(numbers.values()))


main()
