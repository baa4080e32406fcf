"""From imports as written to files, per language; and the files around an open one."""

from __future__ import annotations

import pytest

from aicockpit.prompts.imports import modules
from aicockpit.prompts.languages import Grammars, language_of
from aicockpit.prompts.neighbours import around, neighbours
from aicockpit.prompts.rank import graph
from aicockpit.prompts.resolve import Resolver
from aicockpit.prompts.skeleton import analyse

TREE = (
    "src/shop/__init__.py",
    "src/shop/money.py",
    "src/shop/sub/__init__.py",
    "src/shop/sub/shelf.py",
    "src/shop/app.py",
    "tests/rig.py",
    "tests/test_a.py",
    "web/src/index.ts",
    "web/src/money.ts",
    "web/src/ui/index.tsx",
    "web/src/ui/button.tsx",
    "web/src/old.js",
    "web/src/api.d.ts",
    "go.mod",
    "shop/shop.go",
    "shop/shelf.go",
    "shop/shop_test.go",
    "internal/cash/cash.go",
    "src/main.rs",
    "src/lib.rs",
    "src/cash.rs",
    "src/store/mod.rs",
    "src/store/shelf.rs",
    "src/store/shelf/deep.rs",
    "crates/my-money/src/lib.rs",
    "crates/my-money/src/coin.rs",
    "java/a/b/Shop.java",
    "java/a/c/Money.java",
    "java/a/c/Coin.java",
    "Store/Cash/Money.cs",
    "Store/Main/Shop.cs",
    "include/lib/cash.h",
    "src/c/shop.c",
    "src/c/shop.h",
    "src/c/other/shop.h",
    "lib/shop.rb",
    "lib/shop/money.rb",
    "spec/shop_spec.rb",
    "app/Cash/Money.php",
    "app/Store/Shop.php",
)


@pytest.mark.parametrize(
    ("importer", "module", "files"),
    [
        ("src/shop/app.py", ".money", "src/shop/money.py"),
        ("src/shop/app.py", ".money.convert", "src/shop/money.py"),
        ("src/shop/app.py", ".", "src/shop/__init__.py"),
        ("src/shop/sub/shelf.py", "..money.Money", "src/shop/money.py"),
        ("src/shop/sub/shelf.py", ".....money", ""),
        ("src/shop/app.py", "shop.sub.shelf.Shelf", "src/shop/sub/shelf.py"),
        ("src/shop/app.py", "shop.sub.Shelf", "src/shop/sub/__init__.py"),
        ("tests/test_a.py", "shop.money", "src/shop/money.py"),
        ("tests/test_a.py", "rig.Rig", "tests/rig.py"),
        ("src/shop/app.py", "rig", ""),
        ("src/shop/app.py", "os.path", ""),
        ("src/shop/app.py", "shop.app", ""),
        ("web/src/index.ts", "./money", "web/src/money.ts"),
        ("web/src/index.ts", "./money.js", "web/src/money.ts"),
        ("web/src/index.ts", "./ui", "web/src/ui/index.tsx"),
        ("web/src/ui/button.tsx", "../old", "web/src/old.js"),
        ("web/src/ui/button.tsx", "@/money", "web/src/money.ts"),
        ("web/src/index.ts", "./api", "web/src/api.d.ts"),
        ("web/src/index.ts", "react", ""),
        ("web/src/index.ts", "../../../../x", ""),
        ("internal/cash/cash.go", "example.com/x/shop", "shop/shelf.go shop/shop.go"),
        ("shop/shop.go", "example.com/x/internal/cash", "internal/cash/cash.go"),
        ("shop/shop.go", "fmt", ""),
        ("src/main.rs", "crate::cash::Money", "src/cash.rs"),
        ("src/main.rs", "self::store", "src/store/mod.rs"),
        ("src/store/shelf.rs", "super::Store", "src/store/mod.rs"),
        ("src/store/shelf.rs", "self::deep", "src/store/shelf/deep.rs"),
        ("src/store/shelf.rs", "crate::store::shelf::deep::X", "src/store/shelf/deep.rs"),
        ("src/main.rs", "my_money::coin::Coin", "crates/my-money/src/coin.rs"),
        ("src/main.rs", "std::fmt", ""),
        ("java/a/b/Shop.java", "a.c.Money", "java/a/c/Money.java"),
        ("java/a/b/Shop.java", "a.c.Money.of", "java/a/c/Money.java"),
        ("java/a/b/Shop.java", "a.c", "java/a/c/Coin.java java/a/c/Money.java"),
        ("java/a/b/Shop.java", "java.util.List", ""),
        ("Store/Main/Shop.cs", "Store.Cash", "Store/Cash/Money.cs"),
        ("Store/Main/Shop.cs", "System.Text", ""),
        ("src/c/shop.c", "shop.h", "src/c/shop.h"),
        ("src/c/shop.c", "lib/cash.h", "include/lib/cash.h"),
        ("src/c/shop.c", "stdio.h", ""),
        ("lib/shop.rb", "./shop/money", "lib/shop/money.rb"),
        ("spec/shop_spec.rb", "shop/money", "lib/shop/money.rb"),
        ("spec/shop_spec.rb", "json", ""),
        ("app/Store/Shop.php", "App\\Cash\\Money", "app/Cash/Money.php"),
        ("app/Store/Shop.php", "Symfony\\Console", ""),
    ],
)
def test_an_import_is_resolved(importer: str, module: str, files: str) -> None:
    named = [(path, getattr(language_of(path), "name", "text")) for path in TREE]
    assert Resolver(named).resolve(importer, module) == tuple(files.split())
    assert Resolver(reversed(named)).resolve(importer, module) == tuple(files.split())


def test_a_tree_that_is_the_package_itself_resolves_its_own_name() -> None:
    resolver = Resolver((path, "python") for path in ("__init__.py", "app.py", "sub/__init__.py", "sub/a.py"))
    assert resolver.resolve("app.py", "shop.sub.a.Thing") == ("sub/a.py",)
    assert resolver.resolve("sub/a.py", "shop.app") == ("app.py",)


@pytest.mark.parametrize(
    ("language", "statement", "found"),
    [
        ("python", "from . import a, b as c", [".a", ".b"]),
        ("python", "from a.b import (\n  c,\n  d,\n)", ["a.b.c", "a.b.d"]),
        ("python", "from a import *", ["a"]),
        ("python", "import a.b as c, d", ["a.b", "d"]),
        ("python", "from", []),
        ("typescript", 'import x, { y } from "./z";', ["./z"]),
        ("javascript", "require('./a')", ["./a"]),
        ("javascript", "describe('a test')", []),
        ("rust", "use a::{self, b as c, d::{e, f::*}};", ["a", "a::b", "a::d::e", "a::d::f"]),
        ("rust", "use a::{b, c", ["a::b", "a::c"]),
        ("php", "use function A\\b;", ["A\\b"]),
        ("java", "import static a.B.*;", ["a.B"]),
        ("csharp", "using static A.B;", ["A.B"]),
        ("c", "#include <a/b.h>", ["a/b.h"]),
        ("go", 'x "a/b"', ["a/b"]),
    ],
)
def test_import_statements_are_read(language: str, statement: str, found: list[str]) -> None:
    assert modules(language, statement) == found


def test_what_a_file_uses_comes_before_who_uses_it() -> None:
    grammars = Grammars()
    texts = {
        "shop/money.py": "class Money: pass\ndef convert(a): return a\n",
        "shop/rate.py": "RATE = 1\n",
        "shop/store.py": "from shop.money import Money, convert\nfrom shop import rate\n"
        "class Store:\n    def sell(self): return convert(Money()), Money, convert, rate.RATE\n",
        "shop/app.py": "from shop.store import Store\nStore().sell()\nStore()\n",
        "shop/cli.py": "from shop.store import Store\n",
        "shop/far.py": "class Far: pass\n",
        "README.md": "# Shop\n",
    }
    tree = {path: analyse(path, text, grammars) for path, text in texts.items()}
    near = neighbours("shop/store.py", tree, 10)
    assert near == ("shop/money.py", "shop/rate.py", "shop/app.py", "shop/cli.py")
    assert around("shop/store.py", graph(tree), 2) == near[:2]
    assert neighbours("shop/store.py", tree, 0) == neighbours("gone.py", tree, 5) == ()
    assert neighbours("README.md", tree, 5) == ()
