import { describe, expect, it } from "vitest";
import { PathIndex, score } from "../../../src/context/fuzzy";

function better(query: string, one: string, other: string): void {
  const [first, second] = [score(query, one), score(query, other)];
  expect(first).toBeDefined();
  expect(first ?? 0).toBeGreaterThan(second ?? Number.NEGATIVE_INFINITY);
}

describe("the score", () => {
  it.each([
    ["session", "src/chat/session.ts", "src/session/other.ts"],
    ["session.ts", "src/session.ts", "src/session.tsx.bak"],
    ["app", "src/app.py", "src/mapper.py"],
    ["cv", "src/ui/chatView.ts", "src/ui/archive.ts"],
    ["ui/app", "src/ui/apply.ts", "test/quiapplied.ts"],
    ["chat view", "src/ui/chatView.ts", "src/ui/chat.ts"],
    ["readme", "README.md", "docs/deep/down/readme.md"],
    ["ftr", "src/folderTree.ts", "src/offset_car.ts"],
  ])("%s means %s rather than %s", (query, one, other) => {
    better(query, one, other);
  });

  it("wants all letters in order", () => {
    expect(score("zq", "src/a.ts")).toBeUndefined();
    expect(score("ba", "a/b")).toBeUndefined();
    expect(score("chat nope", "src/ui/chatView.ts")).toBeUndefined();
  });

  it("takes a backslash for a slash and ignores case", () => {
    expect(score("SRC\\APP", "src/app.py")).toBe(score("src/app", "src/app.py"));
  });
});

describe("the index", () => {
  const paths = ["src/app.py", "src/other.py", "tests/test_app.py", "README.md"];

  it("gives the best first and no more than asked for", () => {
    const index = new PathIndex(paths);
    expect(index.search("app", 10).map(({ path }) => path)).toEqual(["src/app.py", "tests/test_app.py"]);
    expect(index.search("app", 1).map(({ path }) => path)).toEqual(["src/app.py"]);
  });

  it("puts the latest opened first where nothing was typed", () => {
    const found = new PathIndex(paths).search("", 3, ["README.md", "gone.ts", "src/other.py"]);
    expect(found.map(({ path }) => path)).toEqual(["README.md", "src/other.py", "src/app.py"]);
  });

  it("prefers what was opened lately among those that match alike", () => {
    const index = new PathIndex(["a/util.ts", "b/util.ts"]);
    expect(index.search("util", 2, ["b/util.ts"])[0]?.path).toBe("b/util.ts");
  });

  it("finds the same letter by letter as at once, also after going back", () => {
    const many = Array.from({ length: 500 }, (_, at) => `dir${at % 17}/sub${at % 5}/file_${at}.ts`);
    const index = new PathIndex(many);
    for (const query of ["f", "fi", "fil", "fi", "file", "file 3", "d1", "d1f9", "d"]) {
      expect(index.search(query, 20), query).toEqual(new PathIndex(many).search(query, 20));
    }
  });

  it("says how many paths it left out", () => {
    const index = new PathIndex(Array.from({ length: 50_010 }, (_, at) => `f${at}.ts`));
    expect(index.left).toBe(10);
    expect(index.paths).toHaveLength(50_000);
  });

  it("answers at typing speed on 50,000 paths", () => {
    const words = ["component", "service", "model", "helper", "index", "chat", "view", "parser"];
    const many = Array.from(
      { length: 50_000 },
      (_, at) => `packages/${words[at % 8]}/src/${words[(at >> 3) % 8]}/${words[(at >> 6) % 8]}_${at}.ts`,
    );
    const index = new PathIndex(many);
    const began = performance.now();
    for (const query of ["c", "ch", "cha", "chat", "chatv", "chatvi", "chatview"]) index.search(query, 40);
    // A wide margin: about 15 ms a key when nothing else runs.
    expect((performance.now() - began) / 7).toBeLessThan(150);
  });
});
