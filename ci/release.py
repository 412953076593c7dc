#!/usr/bin/env python3
"""Checks and changes the version of a release: ci/release.py COMMAND …, as ci/release says.

The version is that of Cargo.toml. Documents, chart and examples name it, too: PLACES finds them. It
must never tag, push or publish.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSION = r"(\d+\.\d+\.\d+)"
REPOSITORY = "https://github.com/pubsub-relay/pubsub-relay"
# A file, and how the version stands there; each match counts.
PLACES = [
    ("Cargo.toml", rf'(?m)^version = "{VERSION}"'),
    ("Cargo.lock", rf'name = "pubsub-relay"\nversion = "{VERSION}"'),
    ("compose.yaml", rf"pubsub-relay:v{VERSION}"),
    ("k8s/chart/Chart.yaml", rf"(?m)^(?:version|appVersion): {VERSION}"),
    ("k8s/chart/README.md", rf"--version {VERSION}"),
    ("k8s/chart/examples/gke.yaml", rf'tag: "{VERSION}"'),
    ("k8s/overlays/gke/deploy.env", rf"(?m)^IMAGE=.*:{VERSION}$"),
    ("docs/DEPLOY.md", rf"(?:ref=|newTag: |relay:|is `)v{VERSION}"),
    ("docs/CLOUD-RUN.md", rf"relay:v{VERSION}"),
    ("docs/COMPUTE-ENGINE.md", rf"relay:v{VERSION}"),
]


def read(name):
    return (ROOT / name).read_text()


def current():
    return re.search(PLACES[0][1], read("Cargo.toml"))[1]


def section(version):
    """Returns the text of a version in the changelog, without its heading, or None."""
    found = re.search(rf"(?m)^## \[{re.escape(version)}\].*\n((?:(?!^## |^\[).*\n?)*)", read("CHANGELOG.md"))
    return found and found[1].strip()


def check(version=None):
    faults, wanted = [], current()
    for name, pattern in PLACES:
        found = re.findall(pattern, read(name))
        if not found:
            faults.append(f"{name}: no version is found by {pattern}")
        faults += [f"{name}: {other}, that of Cargo.toml is {wanted}" for other in found if other != wanted]
    if section("Unreleased") is None:
        faults.append("CHANGELOG.md: no section Unreleased")
    if version and version != wanted:
        faults.append(f"the tag is v{version}, the version of Cargo.toml {wanted}")
    if version and not section(version):
        faults.append(f"CHANGELOG.md: no section {version}, or an empty one")
    for fault in faults:
        print(f"ERROR {fault}")
    print(f"release: version {wanted}, {len(faults)} faults")
    sys.exit(bool(faults))


def bump(version, date):
    """Writes the version into every place, and turns Unreleased into its section."""
    if not re.fullmatch(VERSION, version) or not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        sys.exit("ERROR usage: ci/release bump 1.2.3 2026-01-31")
    if section(version) is not None:
        sys.exit(f"ERROR CHANGELOG.md has a section {version} already")
    for name, pattern in PLACES:
        text = re.sub(pattern, lambda found: found[0].replace(found[1], version), read(name))
        (ROOT / name).write_text(text)
    text = read("CHANGELOG.md").replace("## [Unreleased]\n", f"## [Unreleased]\n\n## [{version}] - {date}\n", 1)
    (ROOT / "CHANGELOG.md").write_text(text)
    print(f"release: {version} in {len(PLACES)} files and the changelog")


def notes(version):
    text = section(version)
    if not text:
        sys.exit(f"ERROR CHANGELOG.md has no section {version}, or an empty one")
    # On the page of a release, a link into the repository needs its address.
    print(re.sub(r"\]\((?![a-z]+:|#)([^)]+)\)", rf"]({REPOSITORY}/blob/v{version}/\1)", text))


def chart(folder):
    import helm_python

    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    with helm_python.Chart.load(ROOT / "k8s/chart") as loaded:
        print(loaded.save(folder))


def tags(version):
    """Prints the tag of the version, and those that move: of its series, of its major version, and latest.

    Before 1.0 each minor version may break, so there is no tag of the major version 0.
    """
    major, minor, _ = version.split(".")
    print("\n".join([f"v{version}", f"v{major}.{minor}", *([f"v{major}"] if major != "0" else []), "latest"]))


COMMANDS = {"check": check, "bump": bump, "notes": notes, "chart": chart, "tags": tags}
if sys.argv[1:2] == [] or sys.argv[1] not in COMMANDS:
    sys.exit(f"ERROR usage: ci/release {'|'.join(COMMANDS)}")
COMMANDS[sys.argv[1]](*sys.argv[2:])
