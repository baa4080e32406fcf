"""The ignore rules against the real git: `git ls-files -co --exclude-standard` is what they must say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicockpit.indexer import secrets
from aicockpit.indexer.ignore import block, secret_names
from aicockpit.indexer.inside import open_root
from aicockpit.indexer.reading import read
from aicockpit.indexer.scan import Tree
from aicockpit.indexer.wildmatch import parse

DOCS = Path(__file__).parent.parent / "docs" / "indexing.md"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))},
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def git(root: Path | bytes, *words: str | bytes) -> bytes:
    return subprocess.run(["git", *words], cwd=root, env=ENVIRONMENT, check=True, capture_output=True).stdout


@pytest.fixture(autouse=True)
def only_our_git_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


def write(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def fill(root: Path, names: list[str], content: str = "x\n") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def ours(root: Path) -> set[bytes]:
    tree = Tree(os.fsencode(root), 1 << 20)
    tree.scan(lambda *a: None)
    return {path for path, _ in tree.files()}


def theirs(root: Path) -> set[bytes]:
    """What git lists, of which only regular files are of interest."""
    listed = git(root, "ls-files", "-z", "-co", "--exclude-standard").split(b"\0")
    place = os.fsencode(root)
    return {path for path in listed if path and os.path.isfile(os.path.join(place, path)) and not _link(place, path)}


def _link(root: bytes, path: bytes) -> bool:
    return any(os.path.islink(os.path.join(root, *path.split(b"/")[:n])) for n in range(1, path.count(b"/") + 2))


# (pattern, path, does git exclude it); the general library for patterns differs from git on those marked.
CASES = [
    ("[[:alpha:]]x", "ax", True),  # differs
    ("[[:alpha:][:digit:]_]", "_", True),
    ("[[:nope:]]", "a", False),
    ("[[:alpha:]", ":", False),
    ("foo**/bar", "foox/y/bar", True),  # differs
    ("fo?**/bar", "foox/y/bar", False),
    ("a\t", "a", False),  # differs
    ("a\t", "a\t", True),  # differs
    ("a ", "a", True),
    ("a\\ ", "a ", True),
    ("a\\  ", "a ", True),  # differs
    ("a b ", "a b", True),
    ("\\#a", "#a", True),
    ("\\!a", "!a", True),
    ("[!a]", "b", True),
    ("[^a]", "a", False),
    ("[a\\]b]", "]", True),  # differs
    ("[]a]", "]", True),
    ("[a-c]", "b", True),
    ("[a-]", "-", True),
    ("[c-a]", "b", False),
    ("[\\a-c]", "b", True),
    ("a\\", "a", False),  # differs
    ("x[", "x[", False),
    ("*[", "x[", False),
    ("**\\/foo", "a/foo", True),  # differs
    ("**\\/foo", "foo", False),
    ("foo/", "foo", False),
    ("foo/", "foo/a", True),
    ("foo//", "foo/a", False),
    ("/foo", "a/foo", False),
    ("a/b", "c/a/b", False),
    ("**/b", "c/a/b", True),
    ("a/**", "a/b/c", True),
    ("a/**/b", "a/b", True),
    ("a/**/b", "a/x/y/b", True),
    ("a**b", "axxb", True),
    ("a/**b", "a/x/b", False),
    ("a***/b", "a/b", True),
    ("a*/b", "ax/y/b", False),
    ("a?b", "a/b", False),
    ("a[/]b", "a/b", False),
    ("*", "a", True),
    ("**", "a/b", True),
    ("/*", "a", True),
    ("/", "a", False),
    ("!", "a", False),
    ("", "a", False),
    ("*.py", "a.pyc", False),
    ("*.py", ".py", True),
    (".*", ".hidden", True),
    ("ä*", "äb", True),
    ("FOO", "foo", False),
]


@pytest.mark.parametrize(("pattern", "path", "excluded"), CASES, ids=[f"{p!r}-{f!r}" for p, f, _ in CASES])
def test_one_pattern_means_what_git_says(tmp_path: Path, pattern: str, path: str, excluded: bool) -> None:
    git(tmp_path, "init", "-q")
    fill(tmp_path, [path])
    (tmp_path / ".git/info").mkdir(exist_ok=True)
    (tmp_path / ".git/info/exclude").write_text(pattern + "\n")
    assert (path.encode() not in theirs(tmp_path)) == excluded
    assert (path.encode() not in ours(tmp_path)) == excluded


def test_a_tree_with_everything_in_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    write(
        tmp_path,
        **{
            ".gitignore": "\ufeff*.log\r\n!keep.log\r\nbuild/\n/only-here\n# comment\n\ndocs/*.txt\nlink/\n",
            "src/.gitignore": "!a.log\n*.tmp\n/local\nsub/deep/*.c",
            "ignored/.gitignore": "*\n!.gitignore\n",
            ".git/info/exclude": "excluded\n!b.log\n",
        },
    )
    names = (
        "a.log keep.log build/x src/build/x src/a.log src/b.log b.log only-here src/only-here docs/a.txt docs/b/c.txt"
    )
    names += " src/x.tmp x.tmp src/local src/sub/local src/sub/deep/m.c sub/deep/m.c ignored/a ignored/b/c excluded"
    names += " x/excluded"
    fill(tmp_path, names.split())
    (tmp_path / "link").symlink_to(tmp_path / "src")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert ours(tmp_path) == theirs(tmp_path)


def test_negation_inside_an_ignored_folder_has_no_effect(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    write(tmp_path, **{".gitignore": "out/\n!out/keep.txt\n", "out/keep.txt": "x", "out/.gitignore": "!keep.txt\n"})
    assert ours(tmp_path) == theirs(tmp_path) == {b".gitignore"}


def test_tracked_files_stay_and_untracked_beside_them_do_not(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    fill(tmp_path, ["gen/a.py", "gen/deep/b.py", "c.log"])
    git(tmp_path, "add", "-A")
    write(tmp_path, **{".gitignore": "gen/\n*.log\n"})
    fill(tmp_path, ["gen/new.py", "gen/deep/new.py", "gen/other/x.py", "new.log"])
    assert ours(tmp_path) == theirs(tmp_path) == {b".gitignore", b"gen/a.py", b"gen/deep/b.py", b"c.log"}


def test_repositories_inside_are_their_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    for inner in ("nested", "module", "partly"):
        (tmp_path / inner).mkdir()
        git(tmp_path / inner, "init", "-q")
        fill(tmp_path / inner, ["x.py"])
    git(tmp_path / "module", "add", "-A")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    git(tmp_path / "module", *who, "commit", "-qm", "x")
    git(tmp_path, "-c", "advice.addEmbeddedRepo=false", "add", "module")
    shutil.move(tmp_path / "partly/.git", tmp_path / "aside")
    git(tmp_path, "add", "partly")
    shutil.move(tmp_path / "aside", tmp_path / "partly/.git")
    fill(tmp_path, ["partly/untracked.py", "not-a-repo/.git/x", "not-a-repo/y.py", "fake/.git", "fake/z.py"])
    assert ours(tmp_path) == theirs(tmp_path)
    assert ours(tmp_path) == {b"partly/x.py", b"partly/untracked.py", b"not-a-repo/y.py", b"fake/z.py"}


def test_outside_a_work_tree_the_ignore_files_alone_decide(tmp_path: Path) -> None:
    write(tmp_path, **{".gitignore": "*.log\n", "a.py": "", "a.log": "", "one/b.py": "", "one/b.log": ""})
    git(tmp_path / "one", "init", "-q")
    assert ours(tmp_path) == {b".gitignore", b"a.py", b"one/b.py"}


def test_a_part_of_a_work_tree(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    write(tmp_path, **{".gitignore": "*.log\n/part/only\nonly-top\n/part/in/x\n", "part/.gitignore": "*.tmp\n"})
    fill(tmp_path, ["part/a.log", "part/only", "part/in/only", "part/in/x", "part/in/y.tmp", "part/in/z", "other"])
    assert ours(tmp_path / "part") == theirs(tmp_path / "part") == {b".gitignore", b"in/only", b"in/z"}


def test_a_folder_that_git_ignores_can_be_watched_by_name(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    write(tmp_path, **{".gitignore": "out/\n", "out/a.py": "x"})
    assert ours(tmp_path / "out") == {b"a.py"}


def test_the_user_s_own_exclude_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    fill(tmp_path, ["a.xdg", "a.conf", "b.py"])
    config = tmp_path.parent / "config"
    write(config, **{"git/ignore": "*.xdg\n", "mine": "*.conf\n"})
    for name, value in (("XDG_CONFIG_HOME", str(config)),):
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(ENVIRONMENT, name, value)
    assert ours(tmp_path) == theirs(tmp_path) == {b"a.conf", b"b.py"}
    git(tmp_path, "config", "core.excludesFile", str(config / "mine"))
    assert ours(tmp_path) == theirs(tmp_path) == {b"a.xdg", b"b.py"}


def test_a_linked_work_tree_and_a_symlinked_ignore_file(tmp_path: Path) -> None:
    main = tmp_path / "main"
    main.mkdir()
    git(main, "init", "-q")
    fill(main, ["a.py"])
    git(main, "add", "-A")
    git(main, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")
    git(main, "worktree", "add", "-q", str(tmp_path / "linked"))
    write(main, **{".git/info/exclude": "*.log\n"})
    linked = tmp_path / "linked"
    fill(linked, ["b.log", "c.py", "patterns"], "c.py\n")
    (linked / ".gitignore").symlink_to("patterns")
    assert ours(linked) == theirs(linked)
    assert b"b.log" not in ours(linked)
    assert b"c.py" in ours(linked)


SEGMENT = st.sampled_from(["a", "b", "ab", "A", "a.b", "foo", "x y", "#c", "!d", "é", "a]", "\\"])
NAMES = st.lists(st.lists(SEGMENT, min_size=1, max_size=4).map("/".join), min_size=1, max_size=14)
GLOB = st.sampled_from(
    [
        *(
            "a",
            "b",
            "ab",
            "B",
            "*",
            "**",
            "?",
            "/",
            "/",
            "[ab]",
            "[!a]",
            "[^b]",
            "[a-c]",
            "[",
            "]",
            "\\",
            " ",
            ".",
            "foo",
        ),
        *("!", "[[:lower:]]", "[[:upper:]b]", "[\\]a]", "[]-a]", "\\*", "\\ ", "#", "é", "-", "***", "[A-B]", "[b-"),
    ]
)
LINE = st.lists(GLOB, min_size=1, max_size=6).map("".join)
PATTERNS = st.lists(st.one_of(LINE, LINE.map("!".__add__), LINE.map(lambda line: line + "/")), max_size=6)


def grow(root: Path, names: list[str]) -> None:
    """As many of the names as can be: a file may already stand where a folder should."""
    for name in names:
        try:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if not (root / name).is_dir():
                (root / name).write_text("x")
        except (FileExistsError, NotADirectoryError):
            continue


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=NAMES,
    top=PATTERNS,
    inner=PATTERNS,
    exclude=PATTERNS,
    where=SEGMENT,
    tracked=st.integers(0, 5),
    ignore_case=st.booleans(),
)
def test_random_trees_agree_with_git(
    tmp_path: Path, names: list[str], top: list[str], inner: list[str], exclude: list[str], where: str, tracked: int,
    ignore_case: bool,
) -> None:  # fmt: skip
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    template = tmp_path / "template"
    if not template.exists():
        template.mkdir()
        git(template, "init", "-q", "--template=")
        (template / ".git/info").mkdir()
    shutil.copytree(template / ".git", root / ".git")
    with (root / ".git/config").open("a") as config:
        config.write(f"[core]\n\tignoreCase = {str(ignore_case).lower()}\n")
    grow(root, names)
    if ignore_case and any("A" in name for name in names):
        tracked = 0  # where names may differ by case only, git with this setting takes one file for the other
    if known := [name for name in names[:tracked] if (root / name).is_file()]:
        git(root, "--literal-pathspecs", "add", "-f", "--", *known)
    (root / ".git/info/exclude").write_text("\n".join(exclude))
    (root / ".gitignore").write_text("\n".join(top))
    if (root / where).is_dir():
        (root / where / ".gitignore").write_text("\n".join(inner))
    assert ours(root) == theirs(root)


def test_own_ignore_file_has_the_last_word(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    fill(tmp_path, ["a.py", "b.sql", "gen/c.py", "docs/d.md", ".env.example", ".env", "tracked.sql"])
    git(tmp_path, "add", "tracked.sql")
    write(
        tmp_path,
        **{
            ".gitignore": "gen/\n",
            ".aicockpitignore": "*.sql\n!gen/\n!.env.example\n",
            "docs/.aicockpitignore": "*.md\n",
        },
    )
    found = {b".gitignore", b".aicockpitignore", b"docs/.aicockpitignore", b"a.py", b"gen/c.py", b".env.example"}
    assert ours(tmp_path) == found


def test_secrets_stay_here_whatever_git_says(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    names = [".env", ".env.local", "prod.env", "ID_RSA", "a/id_ed25519", "x.PEM", ".ssh/config", ".aws/credentials"]
    names += [".docker/config.json", "secrets.yml", "x/credentials", ".npmrc", "terraform.tfvars", "a/b/.netrc"]
    fill(tmp_path, names)
    write(tmp_path, **{".gitignore": "!.env\n", "environment.py": "", "credentials/store.py": "", "keys.py": ""})
    write(tmp_path, **{"deploy": "\n-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "putty": "PuTTY-User-Key-File-2: x"})
    write(
        tmp_path,
        **{"about_keys.py": "A key begins with -----BEGIN PRIVATE KEY-----\n", "a.crt": "-----BEGIN CERTIFICATE"},
    )
    within = {
        "a.json": '{"private_key": "-----BEGIN RSA PRIVATE KEY-----\\n"}',
        "b.yml": "users:\n  client-key-data: x",
    }
    write(tmp_path, **within, **{"c.txt": "# age\nAGE-SECRET-KEY-1Q", "d.json": '{"type" : "service_account"}'})
    nested = ["x/.kube/config", "x/.config/gh/hosts.yml", "x/.m2/settings.xml", "x/my-Service-Account-1.json"]
    fill(tmp_path, [*nested, "x/terraform.tfstate.123.backup", "x/secrets.ini", "x/.bash_history", "x/kubeconfig.yaml"])
    git(tmp_path, "add", "-Af")
    kept = {b".gitignore", b"environment.py", b"credentials/store.py", b"keys.py", b"about_keys.py", b"a.crt"}
    assert ours(tmp_path) == kept


def test_the_list_in_the_docs_is_the_list() -> None:
    shown = re.search(r"<!-- secrets:begin -->\n```\n(.*?)```\n<!-- secrets:end -->", DOCS.read_text(), re.DOTALL)
    assert shown is not None
    assert shown.group(1).split() == list(secrets.NAMES)
    assert secret_names() is not None


def test_many_patterns_are_asked_in_one_go() -> None:
    found = block(b"\n".join(b"*.ext%d" % number for number in range(500)))
    assert found is not None
    assert found.decide(b"a/b.ext499", b"b.ext499", False) is True
    assert found.decide(b"a/b.py", b"b.py", False) is None


def test_a_nul_ends_a_pattern_and_odd_lines_are_no_patterns() -> None:
    assert parse(b"a\0b") == parse(b"a")
    assert [parse(line) for line in (b"", b"#x", b"!", b"/", b"a\\", b"[a", b"   ")] == [None] * 7


def test_binary_and_large_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "late").write_bytes(b"x" * 8192 + b"\0")
    (tmp_path / "early").write_bytes(b"x" * 8191 + b"\0")
    (tmp_path / "full").write_bytes(b"x" * (1 << 20))
    (tmp_path / "over").write_bytes(b"x" * ((1 << 20) + 1))
    assert ours(tmp_path) == {b"late", b"full"}
    root = open_root(os.fsencode(tmp_path))
    assert read(root, b"early", 1 << 20).why == "binary"
    os.close(root)
