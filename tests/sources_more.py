"""More test sources: Java, C, C++, C#, Ruby, PHP. See sources.py."""

from __future__ import annotations

from sample import C_STATEMENTS, Sample

JAVA = Sample(
    "a/b/Shop.java",
    """package a.b;
import a.c.Money;
import static a.d.Rates.*;
/** A shop. */
@Service
public class Shop<T> extends Base implements Sells {
  private static final int LIMIT = 10;
  Runnable run = () -> { {body} };
  public Shop(int a) { {body} }
  @Override public Money price(T item, int count) throws Failure { {body} }
  abstract int left();
}
interface Sells { Money price(Object item, int count); }
enum Level { LOW(1), HIGH(2); private final int v; Level(int v) { this.v = v; } }
record Point(int x, int y) { }
""",
    C_STATEMENTS,
    (
        "import a.c.Money;",
        "// A shop.",
        "@Service public class Shop<T> extends Base implements Sells {",
        "    private static final int LIMIT = 10;",
        "    Runnable run = () -> ...;",
        "    public Shop(int a);",
        "    @Override public Money price(T item, int count) throws Failure;",
        "    LOW(1),",
        "record Point(int x, int y) {}",
    ),
    ("Shop", "LIMIT", "run", "price", "left", "Sells", "Level", "HIGH", "Point"),
    ("Base", "Failure", "Money"),
    ("a.c.Money", "a.d.Rates"),
)
C = Sample(
    "src/shop.c",
    """#include "shop.h"
#include <stdio.h>
#define LIMIT 10
#define TWICE(a) ((a) + (a))
/* A shop. */
struct shop { int total; const char *name; };
typedef struct { int x; } point_t;
enum level { LOW, HIGH = 2 };
static const int rates[] = { 1, 2 };
int price(struct item *item, int count);
static struct money *convert(int a) { {body} return 0; }
#ifdef EXTRA
void extra(void) { {body} }
#endif
""",
    C_STATEMENTS,
    (
        '#include "shop.h"',
        "#define LIMIT 10",
        "#define TWICE(a) ...",
        "// A shop.",
        "struct shop {",
        "  const char *name;",
        "enum level { LOW, HIGH = 2 };",
        "int price(struct item *item, int count);",
        "static struct money *convert(int a);",
        "void extra(void);",
    ),
    ("LIMIT", "TWICE", "shop", "total", "name", "point_t", "level", "HIGH", "rates", "price", "convert", "extra"),
    (),
    ("shop.h", "stdio.h"),
)
CPP = Sample(
    "src/shop.cpp",
    """#include "shop.h"
namespace store {
// A shop.
template <typename T> class Shop : public Base {
 public:
  explicit Shop(int a) : total_(a) { {body} }
  virtual Money price(const T& item) const = 0;
  static constexpr int limit = 10;
  ~Shop() = default;
 private:
  int total_;
};
enum class Level { Low, High };
using Prices = std::vector<Money>;
}
Money store::convert(int a) const { {body} }
auto handler = [](int a) { {body} };
""",
    C_STATEMENTS,
    (
        "  template <typename T> class Shop : public Base {",
        "    explicit Shop(int a);",
        "    virtual Money price(const T& item) const = 0;",
        "    static constexpr int limit = 10;",
        "enum class Level { Low, High };",
        "using Prices = std::vector<Money>;",
        "Money store::convert(int a) const;",
    ),
    ("store", "Shop", "price", "limit", "total_", "Level", "High", "Prices", "convert", "handler"),
    ("Base", "Money"),
    ("shop.h",),
)
CSHARP = Sample(
    "Store/Shop.cs",
    """using System;
using Money = A.Cash.Money;
namespace Store.Main
{
    /// <summary>A shop.</summary>
    [Serializable]
    public class Shop<T> : Base, ISells where T : Item
    {
        private const int Limit = 10;
        public int Total { get; set; }
        public int Twice { get { {body} } }
        public Shop(int a) : base(a) { {body} }
        public async Task<Money> Price(T item, int count = 1) { {body} }
        public int Half(int a) => a / 2;
    }
    public interface ISells { Task<Money> Price(Item item, int count); }
    public enum Level { Low, High }
    public record Point(int X, int Y);
}
""",
    C_STATEMENTS,
    (
        "using System;",
        "    // A shop.",
        "    [Serializable] public class Shop<T> : Base, ISells where T : Item {",
        "        private const int Limit = 10;",
        "        public int Total { get; set; }",
        "        public Shop(int a);",
        "        public async Task<Money> Price(T item, int count = 1);",
        "        public int Half(int a);",
        "    public enum Level { Low, High }",
        "    public record Point(int X, int Y);",
    ),
    ("Shop", "Limit", "Total", "Price", "Half", "ISells", "Level", "High", "Point"),
    ("Base", "Money", "Item"),
    ("System", "A.Cash.Money"),
)
RUBY = Sample(
    "lib/shop.rb",
    """require "json"
require_relative "money/cash"
module Store
  # A shop.
  class Shop < Base
    include Comparable
    attr_accessor :name, :total
    LIMIT = 10
    def initialize(a, b = 1)
      {body}
      @a = Cash.new(a)
    end
    def self.open(path)
      {body}
    end
    private
    def half = 2
  end
end
""",
    ("helper(1)", "n = 0", "3.times { |i| i }", "other(a) if a", "# note\n", "f = -> { g }"),
    (
        'require_relative "money/cash"',
        "  # A shop.",
        "  class Shop < Base",
        "    include Comparable",
        "    attr_accessor :name, :total",
        "    LIMIT = 10",
        "    def initialize(a, b = 1)",
        "    def self.open(path)",
        "    def half",
    ),
    ("Store", "Shop", "name", "total", "LIMIT", "initialize", "open", "half"),
    ("Base", "Cash"),
    ("json", "./money/cash"),
)
PHP = Sample(
    "src/Store/Shop.php",
    """<?php
namespace App\\Store;
use App\\Cash\\{Money, Rate as R};
require_once "lib/all.php";
/** A shop. */
final class Shop extends Base implements Sells {
    use Counts;
    const LIMIT = 10;
    private int $total = 0;
    public function price(Item $item, int $count = 1): Money { {body} }
}
interface Sells { function price(Item $item, int $count): Money; }
enum Level: string { case Low = "l"; }
function convert(int $a): Money { {body} }
""",
    ("helper(1);", "$n = 0;", "foreach ([] as $x) {}", "if ($a) { other($a); }", "// note\n", "$f = fn($x) => $x;"),
    (
        "use App\\Cash\\{Money, Rate as R};",
        "// A shop.",
        "final class Shop extends Base implements Sells {",
        "    const LIMIT = 10;",
        "    private int $total = 0;",
        "    public function price(Item $item, int $count = 1): Money;",
        '    case Low = "l";',
        "function convert(int $a): Money;",
    ),
    ("Shop", "LIMIT", "total", "price", "Sells", "Level", "Low", "convert"),
    ("Base", "Money", "Item"),
    ("App\\Cash\\Money", "App\\Cash\\Rate", "lib/all.php"),
)
