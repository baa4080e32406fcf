"""From an import as written to the file of the tree that it means. Knows paths only; reads no manifest of any tool."""

from __future__ import annotations

from collections.abc import Iterable

from aicockpit.prompts.languages import family

MAX_OF_A_FOLDER = 20  # files that one import of a whole folder may mean
_SCRIPT_ENDS = (".ts", ".tsx", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".d.ts")
_FOLDER_FILES = ("__init__", "index", "mod")  # stand for the folder that they lie in
_ROOTS = ("", "src", "lib", "app")


class Resolver:
    """An index over the paths of one tree. Equal paths give equal answers, whatever their order."""

    def __init__(self, files: Iterable[tuple[str, str]]) -> None:
        """`files`: (path, language name) of each file that can be imported."""
        self._languages = dict(sorted(files))
        self._stems: dict[tuple[str, str], list[str]] = {}
        self._folders: dict[tuple[str, str], dict[str, list[str]]] = {}
        for path, language in self._languages.items():
            kind = family(language)
            folder, _, name = path.rpartition("/")
            stem = name.partition(".")[0]
            self._stems.setdefault((kind, stem), []).append(path)
            last = folder.rpartition("/")[2]
            if stem in _FOLDER_FILES and last:
                self._stems.setdefault((kind, last), []).append(path)
            self._folders.setdefault((kind, last), {}).setdefault(folder, []).append(path)

    def resolve(self, importer: str, module: str) -> tuple[str, ...]:
        """The files that `module`, written in `importer`, means; () for what is not of this tree."""
        language = self._languages.get(importer, "")
        if language == "python":
            found = self._python(importer, module)
        elif language in {"javascript", "typescript", "tsx"}:
            found = self._script(importer, module)
        elif language == "go":
            return self._folder("go", module.split("/"), 2, importer)
        elif language == "rust":
            found = self._rust(importer, module)
        elif language in {"c", "cpp"}:
            found = self._file("c", importer, module)
        elif language == "ruby":
            found = self._file("ruby", importer, module.removesuffix(".rb") + ".rb")
        elif language == "php" and module.endswith(".php"):
            found = self._file("php", importer, module.lstrip("/"))
        elif language in {"java", "csharp", "php"}:
            parts = module.replace("\\", ".").split(".")
            least = 1 if language == "php" else 2
            found = self._tail(language, parts, least, importer) or self._tail(language, parts[:-1], least, importer)
            if not found and language != "php":
                return self._folder(language, parts, 1 if language == "csharp" else 2, importer)
        else:
            return ()
        return (found,) if found and found != importer else ()

    def _python(self, importer: str, module: str) -> str:
        name = module.lstrip(".")
        dots = len(module) - len(name)
        parts = name.split(".") if name else []
        if dots:
            folder = importer.split("/")[:-1]
            if dots - 1 > len(folder):
                return ""
            base = folder[: len(folder) - (dots - 1)]
            for length in (len(parts), len(parts) - 1):
                if length >= 0 and (found := self._module("/".join([*base, *parts[:length]]))):
                    return found
            return ""
        for length in (len(parts), len(parts) - 1):
            if length > 0 and (found := self._tail("python", parts[:length], length, importer)):
                return found
        if self._have("__init__.py"):  # the tree is the package itself, whose name we do not know
            for length in (len(parts), len(parts) - 1):
                if length > 1 and (found := self._module("/".join(parts[1:length]))):
                    return found
        return ""

    def _module(self, stem: str) -> str:
        ends = (".py", "/__init__.py", ".pyi", "/__init__.pyi")
        found = next((stem + end for end in ends if stem + end in self._languages), "")
        return found if stem else found or self._have("__init__.py")

    def _script(self, importer: str, module: str) -> str:
        if not module.startswith("."):
            parts = [part for part in module.removeprefix("@/").removeprefix("~/").split("/") if part]
            alias = module.startswith(("@/", "~/"))
            if not parts or (len(parts) < 2 and not alias):
                return ""
            return self._tail("script", [*parts[:-1], parts[-1].partition(".")[0]], len(parts), importer)
        target = _join(importer, module)
        if target is None:
            return ""
        bare = target.rpartition(".")[0] if target.endswith((".js", ".jsx", ".mjs", ".cjs")) else target
        stems = dict.fromkeys((target, bare, target + "/index"))
        options = [target, *(stem + end for stem in stems for end in _SCRIPT_ENDS)]
        return next((option for option in options if option in self._languages), "")

    def _rust(self, importer: str, module: str) -> str:
        parts = [part for part in module.split("::") if part]
        folder, _, name = importer.rpartition("/")
        inside = folder.split("/") if folder else []
        if name not in {"mod.rs", "lib.rs", "main.rs"}:
            inside = [*inside, name.removesuffix(".rs")]
        anchored = False
        while parts and parts[0] in {"crate", "self", "super"}:
            word = parts.pop(0)
            anchored = True
            if word == "crate":
                inside = inside[: inside.index("src") + 1 if "src" in inside else 0]
            elif word == "super":
                inside = inside[:-1]
        if not anchored:  # another crate of the workspace: its folder, its src
            crate = parts[0].replace("_", "-") if parts else ""
            root = next(
                (
                    f"{top}{name}/src"
                    for top in ("", "crates/")
                    for name in (crate, crate.replace("-", "_"))
                    if self._have(f"{top}{name}/src/lib.rs")
                ),
                "",
            )
            if not root:
                return ""
            inside, parts = root.split("/"), parts[1:]
        for length in range(len(parts), -1, -1):
            stem = "/".join([*inside, *parts[:length]])
            for end in (".rs", "/mod.rs", "/lib.rs"):
                if found := self._have((stem + end).lstrip("/")):
                    return found
        return ""

    def _file(self, kind: str, importer: str, module: str) -> str:
        """A path beside the importer, or one that ends so."""
        near = _join(importer, module)
        if near is not None and near in self._languages:
            return near
        parts = [part for part in module.split("/") if part not in {"", ".", ".."}]
        if not parts or module.startswith("./"):
            return ""
        stem = parts[-1].partition(".")[0]
        end = "/".join(parts)
        found = [path for path in self._stems.get((kind, stem), ()) if path == end or path.endswith("/" + end)]
        return _nearest(found, importer)

    def _tail(self, kind: str, parts: list[str], least: int, importer: str) -> str:
        """The file whose path agrees in most last parts with the module's, at least `least`."""
        best: list[str] = []
        most = max(1, min(least, len(parts)))
        for path in self._stems.get((kind, parts[-1]), ()) if parts else ():
            folder, _, name = path.rpartition("/")
            have = folder.split("/") if folder else []
            if name.partition(".")[0] != parts[-1]:  # found by its folder's name
                have = have[:-1]
            agreed = 1
            while agreed < len(parts) and agreed <= len(have) and have[-agreed] == parts[-1 - agreed]:
                agreed += 1
            top = have[: len(have) - agreed + 1]
            if len(parts) == 1 and kind in {"python", "ruby"} and not _above("/".join(top), importer):
                continue
            if agreed > most:
                best, most = [path], agreed
            elif agreed == most:
                best.append(path)
        return _nearest(best, importer)

    def _folder(self, kind: str, parts: list[str], least: int, importer: str) -> tuple[str, ...]:
        """The files of the folder whose path agrees in most last parts; a whole folder path always counts."""
        best: list[str] = []
        most = 0
        folders = self._folders.get((kind, parts[-1]), {})
        for folder in folders:
            have = folder.split("/")
            agreed = 0
            while agreed < min(len(parts), len(have)) and have[-1 - agreed] == parts[-1 - agreed]:
                agreed += 1
            if agreed < least and not (agreed == len(have) and len(parts) > 1):
                continue
            if agreed > most:
                best, most = [folder], agreed
            elif agreed == most:
                best.append(folder)
        chosen = _nearest(best, importer)
        files = [path for path in folders.get(chosen, ()) if path != importer and not path.endswith("_test.go")]
        return tuple(files[:MAX_OF_A_FOLDER])

    def _have(self, path: str) -> str:
        return path if path in self._languages else ""


def _above(folder: str, importer: str) -> bool:
    """Whether one-part modules of this folder are found from the importer: a source root, or a folder above it."""
    return folder in _ROOTS or importer.startswith(folder + "/")


def _nearest(paths: list[str], importer: str) -> str:
    """The one that shares most leading folders with the importer; then the shortest, then by name."""
    if len(paths) < 2:
        return paths[0] if paths else ""
    mine = importer.split("/")

    def distance(path: str) -> tuple[int, int, str]:
        shared = 0
        for one, other in zip(mine, path.split("/"), strict=False):
            if one != other:
                break
            shared += 1
        return (-shared, len(path), path)

    return min(paths, key=distance)


def _join(importer: str, module: str) -> str | None:
    """A relative module as a path of the tree; None when it leads out of it."""
    parts = importer.split("/")[:-1]
    for part in module.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)
