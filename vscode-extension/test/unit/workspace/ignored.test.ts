import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type Git, namesOf, runGit } from "../../../src/features/workspace/git";
import { Lister } from "../../../src/features/workspace/ignored";
import { folderOf, git, repositoryOf, write } from "./rig";

async function listed(folder: string, runs?: Git): Promise<readonly string[]> {
  return [...(await new Lister(folder, runs).list()).paths].sort();
}

const noGit: Git = async () => ({ status: -1, out: Buffer.alloc(0), error: "", missing: true });

describe("in a git work tree", () => {
  it("lists what git lists, untracked files too", async () => {
    const folder = repositoryOf({
      ".gitignore": "*.log\n/out/\n",
      "a.py": "1",
      "src/b.ts": "2",
      "x.log": "",
      "out/c": "",
    });
    write(folder, { "new.py": "3", "sub/.gitignore": "*.tmp\n", "sub/d.tmp": "", "sub/d": "" });
    expect(await listed(folder)).toEqual([".gitignore", "a.py", "new.py", "src/b.ts", "sub/.gitignore", "sub/d"]);
  });

  it("lists tracked files although a pattern excludes them, and odd names", async () => {
    const folder = repositoryOf({ "keep.log": "1", 'a "b"\té.txt': "2" });
    write(folder, { ".gitignore": "*.log\n", "other.log": "" });
    expect(await listed(folder)).toEqual([".gitignore", 'a "b"\té.txt', "keep.log"]);
  });

  it("leaves secrets and what .aicockpitignore names out, tracked or not, and counts them", async () => {
    const folder = repositoryOf({ ".env": "K=1", "a/.env.example": "", "big/x": "", "big/.env.ok": "", "b.txt": "" });
    write(folder, { ".aicockpitignore": "big/\n", "a/.aicockpitignore": "!.env.example\n" });
    const listing = await new Lister(folder).list();
    expect([...listing.paths].sort()).toEqual([".aicockpitignore", "a/.aicockpitignore", "a/.env.example", "b.txt"]);
    expect(listing.leftOut).toEqual(
      new Map([
        ["secret", 1],
        ["own", 2],
      ]),
    );
    expect(listing.allowed).toEqual(new Set(["a/.env.example"]));
  });

  it("brings back what git ignores where .aicockpitignore says so", async () => {
    const folder = repositoryOf({ ".gitignore": "generated/\n*.log\n/deep/\nvendor\n", "a.py": "" });
    write(folder, {
      ".aicockpitignore": "!generated/\n!/deep/\ngenerated/big/\n",
      "generated/api.py": "",
      "generated/x.log": "",
      "generated/big/y": "",
      "sub/generated/z.py": "",
      "deep/vendor/q": "",
      "deep/.aicockpitignore": "!vendor/\n",
      "vendor/r": "",
      "x.log": "",
    });
    expect(await listed(folder)).toEqual([
      ".aicockpitignore",
      ".gitignore",
      "a.py",
      "deep/.aicockpitignore",
      "deep/vendor/q",
      "generated/api.py",
      "sub/generated/z.py",
    ]);
  });

  it("counts the ignore files above an opened part of it", async () => {
    const folder = repositoryOf({ ".gitignore": "*.log\n", "pkg/a.py": "", "pkg/sub/b.py": "", "other/c.py": "" });
    write(folder, { ".aicockpitignore": "/pkg/sub/\n!/pkg/back.log\n", "pkg/x.log": "", "pkg/back.log": "" });
    expect(await listed(join(folder, "pkg"))).toEqual(["a.py", "back.log"]);
  });

  it("lists an ignored folder that was opened by name, by the files inside it alone", async () => {
    const folder = repositoryOf({ ".gitignore": "out/\n*.map\n", "a.py": "" });
    write(folder, { "out/x.js": "", "out/x.map": "", "out/.gitignore": "*.tmp\n", "out/y.tmp": "", "out/.env": "" });
    expect(await listed(join(folder, "out"))).toEqual([".gitignore", "x.js", "x.map"]);
  });

  it("does not enter repositories inside, nor follow links", async () => {
    const folder = repositoryOf({ "a.py": "" });
    write(folder, { "inner/b.py": "" });
    git(join(folder, "inner"), "init", "-q");
    symlinkSync("/etc", join(folder, "link"));
    expect(await listed(folder), "a link is told apart when it is read").toEqual(["a.py", "link"]);
  });

  it("looks at a few paths only, by the rules it knows", async () => {
    const folder = repositoryOf({
      ".gitignore": "*.log\nout/\n",
      "a.py": "",
      "src/b.py": "",
      ".aicockpitignore": "priv/\n",
    });
    const lister = new Lister(folder);
    await lister.list();
    write(folder, { "src/new.py": "", "src/x.log": "", "out/z/y.js": "", "priv/q": "", "src/deep/n.py": "" });
    const found = await lister.listOnly(["src/new.py", "src/x.log", "out/z/y.js", "priv/q", "src/deep", "gone.py"]);
    expect([...found.paths].sort()).toEqual(["src/deep/n.py", "src/new.py"]);
    await lister.learnIgnored(["out/z/y.js", "src/x.log"]);
    expect([lister.ignores("out/z/other.js"), lister.ignores("out/k"), lister.ignores("src/more.py")]).toEqual([
      true,
      true,
      false,
    ]);
  });

  it("goes on with the ignore files when git fails, and says what to do", async () => {
    const folder = repositoryOf({ ".gitignore": "*.log\n", "a.py": "", "sub/b.py": "", "x.log": "" });
    write(folder, { "inner/c.py": "" });
    git(join(folder, "inner"), "init", "-q");
    const unsafe: Git = async () => ({
      status: 128,
      out: Buffer.alloc(0),
      error: `fatal: detected dubious ownership in repository at '${folder}'\nTo add an exception...`,
      missing: false,
    });
    const listing = await new Lister(folder, unsafe).list();
    expect([...listing.paths].sort()).toEqual([".gitignore", "a.py", "sub/b.py"]);
    expect(listing.problem).toContain("dubious ownership");
    expect(listing.problem).toContain(`git config --global --add safe.directory "${folder}"`);
    const later: Git = (where, words, ...rest) =>
      words.includes("ls-files")
        ? Promise.resolve({ status: 128, out: Buffer.alloc(0), error: "fatal: index file corrupt", missing: false })
        : runGit(where, words, ...rest);
    const second = await new Lister(folder, later).list();
    expect([[...second.paths].sort(), second.problem.includes("index file corrupt")]).toEqual([
      [".gitignore", "a.py", "sub/b.py"],
      true,
    ]);
    expect((await new Lister(join(folder, "sub"), noGit).list()).problem, "no git is no fault").toBe("");
  });
});

describe("outside git", () => {
  const tree = {
    ".gitignore": "*.log\n/build/\n!keep.log\n",
    "a.py": "",
    "x.log": "",
    "keep.log": "",
    "build/y": "",
    "sub/.gitignore": "*.py\n!b.py\n",
    "sub/a.py": "",
    "sub/b.py": "",
    "sub/.env": "",
    ".aicockpitignore": "docs/\n",
    "docs/z.md": "",
  };

  it("reads nested .gitignore files as git would", async () => {
    const folder = folderOf(tree);
    symlinkSync("a.py", join(folder, "link"));
    const found = [".aicockpitignore", ".gitignore", "a.py", "keep.log", "sub/.gitignore", "sub/b.py"];
    expect(await listed(folder)).toEqual(found);
    const lister = new Lister(folder);
    expect((await lister.list()).leftOut.get("special")).toBe(1);
    write(folder, { "new/c.py": "", "new/d.log": "" });
    const part = await lister.listOnly(["new", "sub/a.py", "sub/b.py", "gone"]);
    expect([...part.paths].sort()).toEqual(["new/c.py", "sub/b.py"]);
  });

  it("enters repositories below", async () => {
    const folder = folderOf({ "a.py": "", "inner/b.py": "" });
    git(join(folder, "inner"), "init", "-q");
    expect(await listed(folder)).toEqual(["a.py", "inner/b.py"]);
  });

  it("says that a folder is gone, and passes over one that cannot be read", async () => {
    const folder = folderOf({ "a.py": "", "closed/b.py": "" });
    chmodSync(join(folder, "closed"), 0);
    const found = await listed(folder);
    chmodSync(join(folder, "closed"), 0o755);
    expect(found.filter((path) => path !== "closed/b.py")).toEqual(["a.py"]);
    await expect(new Lister(join(folder, "gone")).list()).rejects.toThrow("ENOENT");
  });

  it("takes no name that a server would refuse", async () => {
    const deep = `${"d/".repeat(130)}x`;
    const folder = folderOf({ "a.py": "" });
    mkdirSync(join(folder, deep, ".."), { recursive: true });
    write(folder, { [deep]: "" });
    expect(await listed(folder)).toEqual(["a.py"]);
  });
});

describe("git", () => {
  it("ends with the signal, and tells of a command that is not there", async () => {
    const folder = repositoryOf({});
    await expect(runGit(folder, ["status"], AbortSignal.abort())).rejects.toMatchObject({ name: "AbortError" });
    expect((await runGit(join(folder, "gone"), ["status"])).status).toBe(-1);
    expect((await runGit(folder, ["nonsense"])).error).toContain("nonsense");
  });

  it("tells names that are no text from those that are", () => {
    expect(namesOf(Buffer.from("a\0b/c\0\xff\0", "latin1"))).toEqual({ names: ["a", "b/c"], odd: 1 });
  });

  it("is there", () => {
    expect(execFileSync("git", ["--version"], { encoding: "utf8" })).toContain("git version");
  });
});
